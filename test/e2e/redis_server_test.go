package e2e

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// redis is a running Redis server.
type redis struct {
	addr   string // where clients that need no router connect
	client string // path of redis-cli
}

// startRedis runs a server that keeps nothing.
func startRedis(t testing.TB) *redis {
	t.Helper()
	const account = "redis"
	daemon := need(t, "redis-server")
	r := &redis{client: need(t, "redis-cli")}
	dir := dataDir(t, account)
	_, port := serve(t, program{
		name: "redis-server",
		command: func(port int) *exec.Cmd {
			cmd := exec.Command(daemon, "--port", strconv.Itoa(port), "--bind", "127.0.0.1",
				"--dir", dir, "--save", "", "--appendonly", "no")
			runAs(t, cmd, account)
			return cmd
		},
		ready: func(ctx context.Context, port int) error {
			_, err := output(r.command(ctx, loopback(port), "PING"))
			return err
		},
		stop: syscall.SIGTERM,
	})
	r.addr = loopback(port)
	return r
}

// command returns a client that gives one command through addr, or, without
// one, those that it reads from stdin.
func (r *redis) command(ctx context.Context, addr string, args ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(addr)
	return exec.CommandContext(ctx, r.client, append([]string{"-e", "-h", host, "-p", port}, args...)...)
}
