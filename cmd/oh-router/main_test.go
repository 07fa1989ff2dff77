package main

import (
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"oh-router": main})
}

// TestScripts runs the command lines of testdata/script against a fake API at
// $OH_ROUTER_SERVER, and at $TLS_SERVER, whose CA is in ca.pem. Below it are APIs
// of another kind: see fakeAPI. At $OWN_SERVER is the router whose state
// directory is $OWN_STATE.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			api := startFakeAPI()
			env.Defer(api.Close)
			env.Setenv("OH_ROUTER_SERVER", api.URL)
			secured := httptest.NewUnstartedServer(api.Config.Handler)
			secured.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo) // who does not trust it says so
			secured.StartTLS()
			env.Defer(secured.Close)
			env.Setenv("TLS_SERVER", secured.URL)
			ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secured.Certificate().Raw})
			if err := os.WriteFile(filepath.Join(env.WorkDir, "ca.pem"), ca, 0o600); err != nil {
				return err
			}
			state := filepath.Join(env.WorkDir, "own")
			own, store, err := startOwnRouter(state)
			if err != nil {
				return err
			}
			env.Defer(func() { own.Close(); store.Close() })
			env.Setenv("OWN_SERVER", own.URL)
			env.Setenv("OWN_STATE", state)
			// The race detector lets every process sleep for 1 s before it ends.
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE_SCRIPTS") != "",
	})
}

// exits is a script command: "exits CODE PROGRAM ARG..." runs the program and
// fails unless it exits with the code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG...")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		got = e.ExitCode()
	} else {
		ts.Check(err)
	}
	if want, err := strconv.Atoi(args[0]); err != nil || got != want {
		ts.Fatalf("%v exits with %d, want %s", args[1:], got, args[0])
	}
}

func TestInterrupt(t *testing.T) {
	api := startFakeAPI()
	defer api.Close()
	cmd := exec.Command("oh-router", "bind", "silent.example:1", "--server", api.URL)
	var stderr lines
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	select {
	case <-api.silent:
	case <-time.After(10 * time.Second):
		t.Fatal("the call did not arrive")
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if got := cmd.ProcessState.ExitCode(); got != exitInterrupted {
		t.Errorf("interrupted bind exits with %d (%v), want %d", got, err, exitInterrupted)
	}
	if want := (lines{"oh-router: interrupted\n"}); !slices.Equal(stderr, want) {
		t.Errorf("interrupted bind says %q, want %q", stderr, want)
	}
}

// lines collects what is written, one element a write.
type lines []string

func (l *lines) Write(b []byte) (int, error) {
	*l = append(*l, string(b))
	return len(b), nil
}

// TestEveryCommandIsDocumented keeps the help complete.
func TestEveryCommandIsDocumented(t *testing.T) {
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if cmd.Short == "" || (cmd.Example == "" && !cmd.HasSubCommands()) {
			t.Errorf("%s: short text %q, example %q: want both", cmd.CommandPath(), cmd.Short, cmd.Example)
		}
		if cmd.Args == nil {
			t.Errorf("%s: takes any arguments", cmd.CommandPath())
		}
		for _, c := range cmd.Commands() {
			if c.Name() != "help" {
				check(c)
			}
		}
	}
	check(newRootCommand(nil))
}
