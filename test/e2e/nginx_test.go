package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNginx(t *testing.T) {
	t.Parallel()
	n := startNginx(t)
	addr := startPair(t).bind(t, n.addr)

	t.Run("keep-alive", func(t *testing.T) { httpKeepAlive(t, n, addr) })
	t.Run("large post", func(t *testing.T) { httpPost(t, n, addr) })
	t.Run("parallel downloads", func(t *testing.T) { httpParallel(t, n, addr) })
	t.Run("download with resume", func(t *testing.T) { httpResume(t, n) })
	t.Run("told who the client is", func(t *testing.T) { httpTold(t, n) })
	t.Run("drain", func(t *testing.T) { httpDrain(t, n) })
	t.Run("a crash is no end", func(t *testing.T) { httpCrash(t, n) })
}

// randomFile writes size bytes that are the same in every run, and returns their
// SHA-256.
func randomFile(t testing.TB, path string, size int64) []byte {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.CopyN(io.MultiWriter(f, sum), rand.NewChaCha8([32]byte{}), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return sum.Sum(nil)
}

// checkFile compares a file with the SHA-256 that it should have.
func checkFile(t testing.TB, path string, want []byte) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		t.Fatal(err)
	}
	if got := sum.Sum(nil); !bytes.Equal(got, want) {
		t.Errorf("sha256 of %s (%d bytes) = %x, want %x", path, size, got, want)
	}
}

// httpKeepAlive makes several requests on one connection.
func httpKeepAlive(t *testing.T, n *nginx, addr string) {
	url := "http://" + addr + "/"
	got := succeed(t, n.get(t.Context(), "-w", "%{num_connects}\n", url, url, url))
	page := "<h1>It works</h1>\n"
	if want := page + "1\n" + page + "0\n" + page + "0\n"; got != want {
		t.Errorf("three pages and the connections made for each = %q, want %q", got, want)
	}
}

// httpPost sends 64 MB, which the server stores.
func httpPost(t *testing.T, n *nginx, addr string) {
	body := filepath.Join(t.TempDir(), "body")
	sum := randomFile(t, body, 64<<20)
	headers := succeed(t, n.get(t.Context(), "-D", "-", "-T", body, "-X", "POST", "http://"+addr+"/keep"))
	_, stored, ok := strings.Cut(headers, "Stored-In: ")
	if !ok {
		t.Fatalf("the answer does not say where the body is: %s", headers)
	}
	stored, _, _ = strings.Cut(stored, "\r\n")
	checkFile(t, stored, sum)
}

// httpParallel downloads a file 50 times at once.
func httpParallel(t *testing.T, n *nginx, addr string) {
	const downloads = 50
	sum := randomFile(t, filepath.Join(n.root, "file"), 4<<20)
	dir := t.TempDir()
	succeed(t, n.get(t.Context(), "--parallel", "--parallel-immediate", "--parallel-max", fmt.Sprint(downloads),
		"-o", filepath.Join(dir, "#1"), fmt.Sprintf("http://%s/file?[1-%d]", addr, downloads)))
	for i := range downloads {
		checkFile(t, filepath.Join(dir, fmt.Sprint(i+1)), sum)
	}
}

// httpTold has the server told who its clients are: the first, who gets the
// checked connection, and one after it.
func httpTold(t *testing.T, n *nginx) {
	addr := startPair(t).bind(t, n.told, "--proxy-protocol", "v2")
	for range 2 {
		got := succeed(t, n.get(t.Context(), "-w", "\n%{local_ip}:%{local_port} at "+addr, "http://"+addr+"/"))
		if told, is, ok := strings.Cut(got, "\n"); !ok || told != is {
			t.Errorf("the server was told of %q, and it is %q", told, is)
		}
	}
}

// httpResume cuts a download and has the client go on where it was.
func httpResume(t *testing.T, n *nginx) {
	p := startPair(t) // of its own: it cuts every session
	addr := p.bind(t, n.addr)
	const size = 64 << 20
	sum := randomFile(t, filepath.Join(n.root, "large"), size)
	file := filepath.Join(t.TempDir(), "large")
	first := inBackground(t, n.get(t.Context(), "--limit-rate", "40M", "-o", file, "http://"+addr+"/large"))
	eventually(t, 30*time.Second, func(context.Context) error {
		if info, err := os.Stat(file); err != nil || info.Size() < size/4 {
			return errors.New("the download has not come to a quarter")
		}
		return nil
	})
	if cut, err := p.cutSessions(t.Context()); err != nil || cut != 1 {
		t.Fatalf("sessions that were cut = %d, %v, want 1", cut, err)
	}
	if _, err := first(); err == nil {
		t.Fatal("curl says that a download which was cut is whole")
	}
	info, err := os.Stat(file)
	if err != nil || info.Size() >= size {
		t.Fatalf("after the cut: %v, %v, want less than %d bytes", info, err, size)
	}
	got := succeed(t, n.get(t.Context(), "-C", "-", "-o", file, "-w", "%{http_code} %{size_download}", "http://"+addr+"/large"))
	if want := fmt.Sprintf("206 %d", size-info.Size()); got != want {
		t.Errorf("status and size of the resumed download = %q, want %q", got, want)
	}
	checkFile(t, file, sum)
}

// httpDrain stops router and proxy in the middle of a download: neither takes
// anything new, both let the download finish and then end.
func httpDrain(t *testing.T, n *nginx) {
	sum := randomFile(t, filepath.Join(n.root, "drained"), 32<<20)
	for _, c := range []struct {
		name string
		proc func(p *pair) *process
	}{
		{"router", func(p *pair) *process { return p.router }},
		{"proxy", func(p *pair) *process { return p.proxy }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startPair(t)
			addr := p.bind(t, n.addr)
			file := filepath.Join(t.TempDir(), "drained")
			download := inBackground(t, n.get(t.Context(), "--limit-rate", "32M", "-o", file, "http://"+addr+"/drained"))
			eventually(t, 30*time.Second, func(context.Context) error {
				_, err := os.Stat(file)
				return err
			})
			proc := c.proc(p)
			if err := proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			eventually(t, 5*time.Second, func(ctx context.Context) error {
				if _, err := output(n.get(ctx, "http://"+addr+"/")); err == nil {
					return errors.New("a new download succeeds although the server drains")
				}
				return nil
			})
			if _, err := download(); err != nil {
				t.Error(err)
			}
			checkFile(t, file, sum)
			proc.wait(t)
		})
	}
}

// httpCrash kills each server in a download whose end only the connection's end
// tells: the client has to see an error.
func httpCrash(t *testing.T, n *nginx) {
	const size = 256 << 20
	randomFile(t, filepath.Join(n.root, "long"), size)
	for _, c := range []struct {
		name string
		kill func(p *pair)
	}{
		{"proxy", func(p *pair) { p.proxy.kill() }},
		{"router", func(p *pair) { p.router.kill() }},
	} {
		t.Run(c.name+" killed", func(t *testing.T) {
			p := startPair(t)
			addr := p.bind(t, n.addr)
			cmd := n.get(t.Context(), "--http1.0", "http://"+addr+"/endless/long")
			var errs bytes.Buffer
			cmd.Stderr = &errs
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, out, 1<<20); err != nil {
				t.Fatalf("before the kill: %v: %s", err, errs.Bytes())
			}
			c.kill(p)
			rest, _ := io.Copy(io.Discard, out)
			if err := cmd.Wait(); err == nil {
				t.Errorf("curl takes %d of %d bytes for the whole file", rest+(1<<20), size)
			}
		})
	}
}
