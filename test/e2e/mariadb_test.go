package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// silence is longer than the time in which a dead peer is noticed. A session
// that is merely silent has to survive it.
const silence = 35 * time.Second

func TestMariaDB(t *testing.T) {
	t.Parallel()
	m := startMariaDB(t)
	p := startPair(t)

	// First, while nothing else can touch the counter.
	t.Run("aborted connects", func(t *testing.T) { abortedConnects(t, m) })

	addr := p.bind(t, m.addr)
	silent := inBackground(t, m.query(t.Context(), addr, fmt.Sprintf("SELECT SLEEP(%d), 'awake'", silence/time.Second)))
	t.Run("queries", func(t *testing.T) { mariadbQueries(t, m, addr) })
	t.Run("proxy killed", func(t *testing.T) { proxyKilledUnderDump(t, m) })
	t.Run("router killed", func(t *testing.T) { routerKilled(t, m) })
	t.Run("dump and restore", func(t *testing.T) { dumpAndRestore(t, m, addr) })
	t.Run("silence", func(t *testing.T) {
		if got, err := silent(); err != nil || got != "0\tawake\n" {
			t.Fatalf("SLEEP over %v of silence = %q, %v, want 0 awake", silence, got, err)
		}
	})
}

// abortedConnects binds many times and connects once: the server must not count
// a single client that hung up without logging in, or it would block the host in
// the end.
func abortedConnects(t *testing.T, m *mariadb) {
	const binds = 200
	for _, c := range []struct {
		name     string
		parallel int
	}{
		{"parallel", binds},
		{"one after the other", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			// Shorter than the 10 s that the server grants a client to log in;
			// longer than the default, for a busy machine.
			p := startPair(t, "--park", "8s")
			before := m.status(t, "Aborted_connects")
			addr := bindOften(t, p, m.addr, binds, c.parallel)
			if got := succeed(t, m.query(t.Context(), addr, "SELECT 'hello'")); got != "hello\n" {
				t.Errorf("SELECT 'hello' = %q", got)
			}
			if after := m.status(t, "Aborted_connects"); after != before {
				t.Errorf("Aborted_connects after %d binds and one client = %d, want %d as before", binds, after, before)
			}
		})
	}
	t.Run("no client", func(t *testing.T) { noClient(t, m) })
}

// noClient binds often and never connects: the server counts the check that waited
// in vain, and no second one.
func noClient(t *testing.T, m *mariadb) {
	p := startPair(t, "--park", "300ms")
	before := m.status(t, "Aborted_connects")
	addr := bindOften(t, p, m.addr, 50, 10)
	eventually(t, 5*time.Second, func(context.Context) error {
		if m.status(t, "Aborted_connects") == before {
			return errors.New("the check is still there")
		}
		return nil
	})
	bindOften(t, p, m.addr, 50, 10) // the last success is recent enough: no check
	succeed(t, m.query(t.Context(), addr, "SELECT 1"))
	if after := m.status(t, "Aborted_connects"); after != before+1 {
		t.Errorf("Aborted_connects after 50 binds, a pause, 50 binds and a client = %d, want %d", after, before+1)
	}
}

// bindOften makes binds of a target, so many of them at a time, and returns the
// one address that all of them have to give.
func bindOften(t testing.TB, p *pair, target string, binds, parallel int) string {
	t.Helper()
	var calls errgroup.Group
	calls.SetLimit(parallel)
	addrs := make([]string, binds)
	for i := range binds {
		calls.Go(func() (err error) {
			addrs[i], err = p.bindByGet(t.Context(), target)
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		if addr != addrs[0] {
			t.Fatalf("binds of one target = %s and %s, want one address", addrs[0], addr)
		}
	}
	return addrs[0]
}

func mariadbQueries(t *testing.T, m *mariadb, addr string) {
	const accounts = 50
	succeed(t, m.query(t.Context(), addr, "CREATE DATABASE bank; CREATE TABLE bank.accounts (id INT PRIMARY KEY, balance INT NOT NULL)"))
	succeed(t, m.query(t.Context(), addr, fmt.Sprintf("INSERT INTO accounts SELECT seq, 100 FROM seq_1_to_%d", accounts), "bank"))

	// Each client moves money in a transaction on a session of its own.
	var clients errgroup.Group
	for i := range 20 {
		clients.Go(func() error {
			_, err := output(m.query(t.Context(), addr, fmt.Sprintf(
				`BEGIN; UPDATE accounts SET balance = balance - 1 WHERE id = 1;
				UPDATE accounts SET balance = balance + 1 WHERE id = %d; COMMIT`, i+2), "bank"))
			return err
		})
	}
	if err := clients.Wait(); err != nil {
		t.Fatal(err)
	}
	got := succeed(t, m.query(t.Context(), addr, "SELECT SUM(balance), (SELECT balance FROM accounts WHERE id = 1) FROM accounts", "bank"))
	if want := "5000\t80\n"; got != want {
		t.Errorf("sum and first balance = %q, want %q", got, want)
	}

	// One answer of 32 MB, and an error that has to reach the client as the server's.
	got = succeed(t, m.query(t.Context(), addr, "SELECT REPEAT('0123456789abcdef', 2097152)"))
	if want := strings.Repeat("0123456789abcdef", 2<<20) + "\n"; got != want {
		t.Errorf("an answer of %d bytes is another than the %d bytes asked for", len(got), len(want))
	}
	if _, err := output(m.query(t.Context(), addr, "SELECT * FROM bank.nothing")); err == nil || !strings.Contains(err.Error(), "ERROR 1146") {
		t.Errorf("SELECT from a table that does not exist: %v, want the server's error 1146", err)
	}
}

// dumpAndRestore copies 200 MB from one database into another, both through the
// mapped address, and compares.
func dumpAndRestore(t *testing.T, m *mariadb, addr string) {
	if testing.Short() {
		t.Skip("a 200 MB dump: not in -short")
	}
	succeed(t, m.query(t.Context(), addr, `CREATE DATABASE copy; CREATE DATABASE original; USE original;
		CREATE TABLE docs (id INT PRIMARY KEY, word VARCHAR(64) NOT NULL, body BLOB NOT NULL);
		INSERT INTO docs SELECT seq, SHA2(seq, 256), CONCAT(UNHEX(SHA2(seq, 512)), REPEAT(SHA2(seq, 512), 7)) FROM seq_1_to_200000`))

	first := sha256.New()
	dump := m.dump(t.Context(), addr, "original")
	restore := m.load(t.Context(), addr, "copy")
	size, err := connectCommands(dump, restore, first)
	if err != nil {
		t.Fatal(err)
	}
	if size < 200_000_000 {
		t.Errorf("the dump has %d bytes, want at least 200 MB", size)
	}

	second := sha256.New()
	if _, err := connectCommands(m.dump(t.Context(), addr, "copy"), nil, second); err != nil {
		t.Fatal(err)
	}
	if a, b := first.Sum(nil), second.Sum(nil); !bytes.Equal(a, b) {
		t.Errorf("sha256 of the dumps of original and copy: %x and %x", a, b)
	}
	sums := strings.Fields(succeed(t, m.query(t.Context(), addr, "CHECKSUM TABLE original.docs, copy.docs")))
	if len(sums) != 4 || sums[1] == "NULL" || sums[1] != sums[3] {
		t.Errorf("CHECKSUM TABLE = %v, want the same for both tables", sums)
	}
}

// connectCommands runs from, copies its output to sum and to the stdin of to
// unless that is nil, and returns how much it was. Both must succeed.
func connectCommands(from, to *exec.Cmd, sum io.Writer) (int64, error) {
	var fromErrs, toErrs bytes.Buffer
	from.Stderr = &fromErrs
	out, err := from.StdoutPipe()
	if err != nil {
		return 0, err
	}
	w := sum
	var in io.WriteCloser
	if to != nil {
		to.Stderr = &toErrs
		if in, err = to.StdinPipe(); err != nil {
			return 0, err
		}
		if err := to.Start(); err != nil {
			return 0, err
		}
		w = io.MultiWriter(sum, in)
	}
	if err := from.Start(); err != nil {
		return 0, err
	}
	size, err := io.Copy(w, out)
	if err == nil {
		err = from.Wait()
	}
	if to != nil {
		in.Close()
		err = errors.Join(err, to.Wait())
	}
	if err != nil {
		err = fmt.Errorf("%w: %s%s", err, fromErrs.Bytes(), toErrs.Bytes())
	}
	return size, err
}
