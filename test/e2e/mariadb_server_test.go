package e2e

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// mariadb is a running MariaDB server.
type mariadb struct {
	addr    string // where clients that need no router connect
	socket  string // a way to the server that TCP counters do not see
	client  string // path of the client program
	dumper  string // path of mariadb-dump
	account string // client account without a password
}

// startMariaDB runs a server with a fresh data directory, tuned to forget what
// a crash would lose.
func startMariaDB(t testing.TB) *mariadb {
	t.Helper()
	const account = "mysql"
	daemon, install := need(t, "mariadbd"), need(t, "mariadb-install-db")
	m := &mariadb{client: need(t, "mariadb"), dumper: need(t, "mariadb-dump"), account: "root"}
	dir := dataDir(t, account)
	data := filepath.Join(dir, "data")
	m.socket = filepath.Join(dir, "sock")

	setup := exec.CommandContext(t.Context(), install, "--no-defaults", "--datadir="+data,
		"--auth-root-authentication-method=normal", "--skip-test-db")
	runAs(t, setup, account)
	succeed(t, setup)

	_, port := serve(t, program{
		name: "mariadbd",
		command: func(port int) *exec.Cmd {
			cmd := exec.Command(daemon, "--no-defaults", "--datadir="+data, "--bind-address=127.0.0.1",
				"--port="+strconv.Itoa(port), "--socket="+m.socket, "--pid-file="+filepath.Join(dir, "pid"),
				"--max-connections=400", "--max-allowed-packet=64M",
				"--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
				"--innodb-buffer-pool-size=512M", "--innodb-log-file-size=512M")
			runAs(t, cmd, account)
			return cmd
		},
		// Asked through the socket: a bare TCP connect would count as an aborted one.
		ready: func(ctx context.Context, _ int) error {
			_, err := output(m.local(ctx, "SELECT 1"))
			return err
		},
		stop: syscall.SIGTERM,
	})
	m.addr = loopback(port)
	return m
}

// local returns a client that asks through the socket.
func (m *mariadb) local(ctx context.Context, statements string) *exec.Cmd {
	return exec.CommandContext(ctx, m.client, "--no-defaults", "--socket="+m.socket,
		"-u", m.account, "-NBe", statements)
}

// query returns a client that runs statements through addr, with more arguments
// (options, then a database).
func (m *mariadb) query(ctx context.Context, addr, statements string, more ...string) *exec.Cmd {
	args := append(m.options(addr), "-NBe", statements)
	return exec.CommandContext(ctx, m.client, append(args, more...)...)
}

// load returns a client that reads statements for a database from its stdin.
func (m *mariadb) load(ctx context.Context, addr, database string) *exec.Cmd {
	return exec.CommandContext(ctx, m.client, append(m.options(addr), database)...)
}

// dump returns a mariadb-dump of a database. Two dumps of equal tables are equal.
func (m *mariadb) dump(ctx context.Context, addr, database string) *exec.Cmd {
	args := append(m.options(addr), "--skip-comments", "--skip-dump-date", "--quick", "--single-transaction", database)
	return exec.CommandContext(ctx, m.dumper, args...)
}

// options say which server, and how to reach it.
func (m *mariadb) options(addr string) []string {
	host, port, _ := net.SplitHostPort(addr)
	return []string{"--no-defaults", "--protocol=tcp", "-h", host, "-P", port, "-u", m.account, "--max-allowed-packet=64M"}
}

// status returns a counter of SHOW GLOBAL STATUS, asked through the socket.
func (m *mariadb) status(t testing.TB, name string) int {
	t.Helper()
	out := succeed(t, m.local(t.Context(), "SHOW GLOBAL STATUS LIKE '"+name+"'"))
	fields := strings.Fields(out)
	if len(fields) != 2 || fields[0] != name {
		t.Fatalf("status of %s is %q", name, out)
	}
	n, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
