package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"testing"
	"time"
)

// proxyKilledUnderDump kills the proxy while a dump runs: the dump has to fail,
// because a dump that ends early and looks whole is worse than none.
func proxyKilledUnderDump(t *testing.T, m *mariadb) {
	p := startPair(t)
	addr := p.bind(t, m.addr)
	// More than all buffers on the way can hold while nobody reads.
	succeed(t, m.query(t.Context(), m.addr, `CREATE DATABASE big; USE big;
		CREATE TABLE blobs (id INT PRIMARY KEY, body BLOB) ENGINE=MyISAM SELECT seq AS id, REPEAT(MD5(seq), 40) AS body FROM seq_1_to_80000`))

	for _, c := range []struct {
		name string
		cmd  *exec.Cmd
	}{
		{"dump", m.dump(t.Context(), addr, "big")},
		{"client", m.query(t.Context(), addr, "SELECT REPEAT(MD5(seq), 40) FROM seq_1_to_80000", "--quick", "big")},
	} {
		t.Run(c.name, func(t *testing.T) {
			var errs bytes.Buffer
			c.cmd.Stderr = &errs
			out, err := c.cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, out, 1<<20); err != nil {
				t.Fatalf("before the proxy was killed: %v: %s", err, errs.Bytes())
			}
			p.killProxy()
			rest, _ := io.Copy(io.Discard, out)
			if err := c.cmd.Wait(); err == nil {
				t.Errorf("it ended with exit status 0 and %d bytes after the proxy was killed, want an error", rest)
			}
			p.restartProxy()
			eventually(t, 5*time.Second, func(ctx context.Context) error {
				_, err := output(m.query(ctx, addr, "SELECT 1"))
				return err
			})
		})
	}
}

// routerKilled kills the router: the next one has to serve the same port within
// 2 s, without being asked to.
func routerKilled(t *testing.T, m *mariadb) {
	p := startPair(t)
	addr := p.bind(t, m.addr)
	succeed(t, m.query(t.Context(), addr, "SELECT 1"))
	sleeping := inBackground(t, m.query(t.Context(), addr, "SELECT SLEEP(600), 'in vain'"))
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		out, err := output(m.local(ctx, "SELECT COUNT(*) FROM information_schema.processlist WHERE state = 'User sleep' AND info LIKE '%in vain%'"))
		if err == nil && out != "1\n" {
			err = errors.New("the statement has not begun")
		}
		return err
	})

	began := p.killRouter()
	if out, err := sleeping(); err == nil {
		t.Errorf("a client of the killed router = %q without error, want one", out)
	}
	works := func() time.Duration {
		eventually(t, 10*time.Second, func(ctx context.Context) error {
			_, err := output(m.query(ctx, addr, "SELECT 1"))
			return err
		})
		return time.Since(began)
	}
	took := works()
	for tries := 2; tries > 0 && took > 2*time.Second; tries-- { // the machine may have had other work
		t.Logf("a client works %v after the start of the next router", took)
		began = p.killRouter()
		took = works()
	}
	if took > 2*time.Second {
		t.Errorf("a client works %v after the start of the next router, want at most 2 s", took)
	}
	if again := p.bind(t, m.addr); again != addr {
		t.Errorf("bind after the crash = %s, want %s as before", again, addr)
	}
}
