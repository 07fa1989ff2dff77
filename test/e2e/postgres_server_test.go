package e2e

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// postgres is a running PostgreSQL server.
type postgres struct {
	addr   string // where clients that need no router connect
	psql   string // path of the client program
	dumper string // path of pg_dump
}

// startPostgres runs a server with a fresh cluster that trusts its clients and
// forgets what a crash would lose.
func startPostgres(t testing.TB) *postgres {
	t.Helper()
	const account = "postgres"
	daemon, initdb := need(t, "postgres"), need(t, "initdb")
	pg := &postgres{psql: need(t, "psql"), dumper: need(t, "pg_dump")}
	dir := dataDir(t, account)
	data := filepath.Join(dir, "data")

	setup := exec.CommandContext(t.Context(), initdb, "-D", data, "-U", "e2e", "-A", "trust",
		"-E", "UTF8", "--no-locale", "--no-sync")
	setup.Dir = dir
	runAs(t, setup, account)
	succeed(t, setup)

	_, port := serve(t, program{
		name: "postgres",
		command: func(port int) *exec.Cmd {
			cmd := exec.Command(daemon, "-D", data, "-p", strconv.Itoa(port), "-k", dir,
				"-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "full_page_writes=off")
			runAs(t, cmd, account)
			return cmd
		},
		ready: func(ctx context.Context, port int) error {
			_, err := output(pg.query(ctx, loopback(port), "SELECT 1"))
			return err
		},
		stop: syscall.SIGINT, // do not wait for clients
	})
	pg.addr = loopback(port)
	return pg
}

// query returns a client that runs statements through addr in the first database
// and prints bare values.
func (pg *postgres) query(ctx context.Context, addr, statements string) *exec.Cmd {
	return exec.CommandContext(ctx, pg.psql, append(pg.options(addr, "postgres"), "-c", statements)...)
}

// session returns a client that reads statements from its stdin.
func (pg *postgres) session(ctx context.Context, addr, database string) *exec.Cmd {
	return exec.CommandContext(ctx, pg.psql, pg.options(addr, database)...)
}

// dump returns a pg_dump of a database.
func (pg *postgres) dump(ctx context.Context, addr, database string) *exec.Cmd {
	return exec.CommandContext(ctx, pg.dumper, "-d", url(addr, database))
}

// options say which server, and stop a client at its first error.
func (pg *postgres) options(addr, database string) []string {
	return []string{"-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", url(addr, database)}
}

// url names a database by an address alone: no setting of the environment's.
func url(addr, database string) string {
	host, port, _ := net.SplitHostPort(addr)
	return "postgres://e2e@" + host + ":" + port + "/" + database + "?sslmode=disable"
}
