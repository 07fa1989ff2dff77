# Build, test and check oh-router. Needs Go and a POSIX machine with bash; the
# tools come pinned from tools/go.mod. `make help` lists the targets.

SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
TOOL    := $(GO) tool -modfile=tools/go.mod
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

# Of one package's tests; more flags for go test, for example -run TestBind -v.
TESTTIMEOUT ?= 20m
TESTFLAGS   ?=
# Per fuzz target.
FUZZTIME    ?= 20s
# The Go benchmarks to run: a regular expression, where, and how often; OLD is
# the bench-go.txt of an earlier run to compare with.
BENCH       ?= .
BENCHPKGS   ?= ./...
BENCHCOUNT  ?= 6
OLD         ?=
# Flags of the comparison with other forwarders; -help lists them.
BENCHFLAGS  ?=
# What must compile.
PLATFORMS   ?= linux/amd64 linux/arm64 darwin/arm64 windows/amd64

# The race detector needs cgo and a C compiler. In CI it is not optional.
CC_FOUND := $(shell command -v "$$($(GO) env CC)" 2>/dev/null)
RACE     := $(if $(CC_FOUND)$(filter true,$(CI)),-race)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## build bin/oh-router, a static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/oh-router ./cmd/oh-router

.PHONY: run
run: ## run router and proxy on loopback; ARGS="--bind HOST:PORT" maps a target
	$(GO) run ./cmd/oh-router up $(ARGS)

.PHONY: test
test: ## vet and run all tests, with the race detector where there is a C compiler
	$(GO) vet ./...
	@$(if $(RACE),,echo 'make test: no C compiler found: running WITHOUT the race detector (install gcc to have it)' >&2)
	$(if $(RACE),CGO_ENABLED=1) $(GO) test $(RACE) -shuffle=on -timeout=$(TESTTIMEOUT) $(TESTFLAGS) ./...

.PHONY: test-deps
test-deps: ## install the servers that the end-to-end tests drive (Debian, Ubuntu)
	bash test/deps/install.sh servers

.PHONY: check
check: check-paths check-mod check-api lint build-all ## everything but the tests that a change must pass

.PHONY: check-paths
check-paths: # tracked files name no folder of the machine they were written on
	@! git grep -nIE '(^|[^[:alnum:]_./-])/(home|root|Users|work|workspace|builds)/' -- ':!LICENSE' | grep -v /home/someone || \
		{ echo 'make check: the lines above name a folder of a machine (examples live in /home/someone)' >&2; exit 1; }

.PHONY: check-mod
check-mod: # go.mod and go.sum are tidy and the modules are what go.sum says
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff
	$(GO) mod verify

.PHONY: check-api
check-api: # the committed OpenAPI document is the one that the code serves
	@$(GO) test -list '^TestOpenAPI' ./internal/api | grep '^TestOpenAPI' >/dev/null || \
		{ echo 'make check: internal/api has no TestOpenAPI' >&2; exit 1; }
	$(GO) test -run '^TestOpenAPI' ./internal/api

.PHONY: lint
lint: ## formatting (gofumpt) and golangci-lint
	@diff="$$($(TOOL) gofumpt -d .)" && test -z "$$diff" || \
		{ printf '%s\n' "$$diff" 'make lint: not formatted: run make fmt' >&2; exit 1; }
	$(TOOL) golangci-lint run ./...

.PHONY: fmt
fmt: ## format all Go files with gofumpt
	$(TOOL) gofumpt -w .

.PHONY: build-all
build-all: # it compiles for every platform, without cgo
	@for p in $(PLATFORMS); do \
		echo "build $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -trimpath ./...; \
	done

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@bash test/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: ## compare with other forwarders that are installed; BENCHFLAGS="-only crr -rounds 3 ..."
	$(GO) run ./test/bench $(BENCHFLAGS)

.PHONY: bench-smoke
bench-smoke: ## see in under a minute that the comparison still works
	$(GO) run ./test/bench -smoke $(BENCHFLAGS)

.PHONY: bench-go
bench-go: ## run the Go benchmarks into bin/bench-go.txt; BENCH=REGEXP chooses, OLD=FILE compares
	@mkdir -p bin
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count=$(BENCHCOUNT) $(BENCHPKGS) | tee bin/bench-go.txt
	$(TOOL) benchstat $(OLD) bin/bench-go.txt

.PHONY: vuln
vuln: ## look for known vulnerabilities in what the binary calls (asks vuln.go.dev)
	$(TOOL) govulncheck ./...

.PHONY: clean
clean: ## remove what build made
	rm -rf bin dist
