package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	pg := startPostgres(t)
	p := startPair(t)
	addr := p.bind(t, pg.addr)
	silent := inBackground(t, pg.query(t.Context(), addr, fmt.Sprintf("SELECT pg_sleep(%d), 'awake'", silence/time.Second)))

	t.Run("queries", func(t *testing.T) { postgresQueries(t, pg, addr) })
	t.Run("listen and notify", func(t *testing.T) { listenNotify(t, pg, addr) })
	t.Run("copy", func(t *testing.T) { copyOutAndIn(t, pg, addr) })
	t.Run("dump and restore", func(t *testing.T) { dumpAndRestorePostgres(t, pg, addr) })
	t.Run("cancel", func(t *testing.T) { cancelStatement(t, pg, addr) })
	t.Run("silence", func(t *testing.T) {
		if got, err := silent(); err != nil || got != "|awake\n" {
			t.Fatalf("pg_sleep over %v of silence = %q, %v, want awake", silence, got, err)
		}
	})
}

func postgresQueries(t *testing.T, pg *postgres, addr string) {
	succeed(t, pg.query(t.Context(), addr, "CREATE TABLE counter AS SELECT 0 AS n"))
	var clients errgroup.Group
	for range 20 {
		clients.Go(func() error {
			_, err := output(pg.query(t.Context(), addr, "UPDATE counter SET n = n + 1"))
			return err
		})
	}
	if err := clients.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := succeed(t, pg.query(t.Context(), addr, "SELECT n FROM counter")); got != "20\n" {
		t.Errorf("counter after 20 clients = %q, want 20", got)
	}
	got := succeed(t, pg.query(t.Context(), addr, "SELECT sum(i), md5(string_agg(i::text, ',')) FROM generate_series(1, 500000) i"))
	want := succeed(t, pg.query(t.Context(), pg.addr, "SELECT sum(i), md5(string_agg(i::text, ',')) FROM generate_series(1, 500000) i"))
	if got != want {
		t.Errorf("a query through the mapped address = %q, want %q as without", got, want)
	}
	if _, err := output(pg.query(t.Context(), addr, "SELECT * FROM nothing")); err == nil || !strings.Contains(err.Error(), `relation "nothing" does not exist`) {
		t.Errorf("SELECT from a table that does not exist: %v, want the server's error", err)
	}
}

// listenNotify has one session wait for what another one says.
func listenNotify(t *testing.T, pg *postgres, addr string) {
	listener := pg.session(t.Context(), addr, "postgres")
	var errs bytes.Buffer
	listener.Stderr = &errs
	in, err := listener.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := listener.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	say := func(statements string) {
		if _, err := io.WriteString(in, statements+"\n"); err != nil {
			t.Fatalf("%v: %s", err, errs.Bytes())
		}
	}
	say("LISTEN news; SELECT 'listening';")
	if !lines.Scan() || lines.Text() != "listening" {
		t.Fatalf("LISTEN: %q, %v: %s", lines.Text(), lines.Err(), errs.Bytes())
	}
	succeed(t, pg.query(t.Context(), addr, "NOTIFY news, 'it rains'"))

	// psql prints what it was told when it is next asked something.
	say("SELECT 'asked';")
	for lines.Scan() && !strings.Contains(lines.Text(), "it rains") {
		if lines.Text() == "asked" {
			say("SELECT 'asked';")
		}
	}
	if !strings.Contains(lines.Text(), `"news"`) {
		t.Errorf("the listener was told %q, want it rains on news", lines.Text())
	}
	in.Close()
	if err := listener.Wait(); err != nil {
		t.Errorf("listener: %v: %s", err, errs.Bytes())
	}
}

// copyOutAndIn has the server stream a table to a file of the client, and back.
func copyOutAndIn(t *testing.T, pg *postgres, addr string) {
	file := filepath.Join(t.TempDir(), "rows.csv")
	succeed(t, pg.query(t.Context(), addr,
		"CREATE TABLE rows AS SELECT i AS id, repeat(md5(i::text), 8) AS body FROM generate_series(1, 100000) i; CREATE TABLE back (LIKE rows)"))
	succeed(t, pg.query(t.Context(), addr, `\copy rows TO '`+file+`' CSV`))
	if info, err := os.Stat(file); err != nil || info.Size() < 25_000_000 {
		t.Fatalf("the copied file: %v, %v, want at least 25 MB", info, err)
	}
	succeed(t, pg.query(t.Context(), addr, `\copy back FROM '`+file+`' CSV`))
	got := succeed(t, pg.query(t.Context(), addr, "SELECT count(*) FROM (SELECT * FROM rows EXCEPT ALL SELECT * FROM back) d"))
	if got != "0\n" {
		t.Errorf("rows that were lost on the way out and back = %q, want 0", got)
	}
	if got := succeed(t, pg.query(t.Context(), addr, "SELECT count(*) FROM back")); got != "100000\n" {
		t.Errorf("rows that came back = %q, want 100000", got)
	}
}

// dumpAndRestorePostgres copies a database with pg_dump | psql, both through the
// mapped address.
func dumpAndRestorePostgres(t *testing.T, pg *postgres, addr string) {
	rows := 100_000
	if testing.Short() {
		rows = 1000
	}
	succeed(t, pg.query(t.Context(), addr, "CREATE DATABASE original"))
	succeed(t, pg.query(t.Context(), addr, "CREATE DATABASE copy"))
	fill := pg.session(t.Context(), addr, "original")
	fill.Stdin = strings.NewReader(fmt.Sprintf(
		"CREATE TABLE docs AS SELECT i AS id, repeat(md5(i::text), 16) AS body FROM generate_series(1, %d) i;", rows))
	succeed(t, fill)

	_, err := connectCommands(pg.dump(t.Context(), addr, "original"), pg.session(t.Context(), addr, "copy"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	// Not by a second dump: newer ones have a random key in them.
	sum := func(database string) string {
		cmd := pg.session(t.Context(), addr, database)
		cmd.Stdin = strings.NewReader("SELECT count(*), md5(string_agg(md5(d::text), '' ORDER BY id)) FROM docs d;")
		return succeed(t, cmd)
	}
	original, restored := sum("original"), sum("copy")
	if original != restored || !strings.HasPrefix(original, strconv.Itoa(rows)+"|") {
		t.Errorf("rows and checksum of original and copy: %q and %q, want the same of %d rows", original, restored, rows)
	}
}

// cancelStatement interrupts psql: it asks the server to cancel by a second
// connection to the address that it knows, which is the mapped one.
func cancelStatement(t *testing.T, pg *postgres, addr string) {
	cmd := pg.query(t.Context(), addr, "SELECT pg_sleep(600), 'in vain'")
	ended := inBackground(t, cmd)
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		out, err := output(pg.query(ctx, pg.addr, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND query LIKE '%in vain%'"))
		if err == nil && out != "1\n" {
			err = fmt.Errorf("statements that sleep: %s", out)
		}
		return err
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _, err := ended(); err == nil || !strings.Contains(err.Error(), "canceling statement due to user request") {
		t.Errorf("an interrupted client: %v, want that the server cancelled the statement", err)
	}
}
