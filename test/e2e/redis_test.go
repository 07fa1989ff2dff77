package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRedis(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	addr := startPair(t).bind(t, r.addr)

	t.Run("commands", func(t *testing.T) { redisCommands(t, r, addr) })
	t.Run("pipeline", func(t *testing.T) { redisPipeline(t, r, addr) })
	t.Run("blocking pop", func(t *testing.T) { redisBlockingPop(t, r, addr) })
	t.Run("publish and subscribe", func(t *testing.T) { redisPubSub(t, r, addr) })
}

func redisCommands(t *testing.T, r *redis, addr string) {
	if got := succeed(t, r.command(t.Context(), addr, "PING")); got != "PONG\n" {
		t.Errorf("PING = %q, want PONG", got)
	}
	multi := r.command(t.Context(), addr)
	multi.Stdin = strings.NewReader("SET n 40\nMULTI\nINCR n\nINCR n\nEXEC\n")
	if got, want := succeed(t, multi), "OK\nOK\nQUEUED\nQUEUED\n41\n42\n"; got != want {
		t.Errorf("a transaction = %q, want %q", got, want)
	}
	// A value of 1 MB with every byte in it, there and back.
	value := make([]byte, 1<<20)
	for i := range value {
		value[i] = byte(i ^ i>>8)
	}
	set := r.command(t.Context(), addr, "-x", "SET", "blob")
	set.Stdin = bytes.NewReader(value)
	succeed(t, set)
	if got := succeed(t, r.command(t.Context(), addr, "GET", "blob")); got != string(value)+"\n" {
		t.Errorf("GET of a value of %d bytes = %d bytes that differ", len(value), len(got)-1)
	}
}

// redisPipeline sends commands without waiting for answers.
func redisPipeline(t *testing.T, r *redis, addr string) {
	const commands = 100_000
	var stream bytes.Buffer
	for i := range commands {
		key, value := fmt.Sprintf("key:%d", i), strconv.Itoa(i*i)
		fmt.Fprintf(&stream, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value)
	}
	pipe := r.command(t.Context(), addr, "--pipe")
	pipe.Stdin = &stream
	if got, want := succeed(t, pipe), fmt.Sprintf("errors: 0, replies: %d\n", commands); !strings.HasSuffix(got, want) {
		t.Errorf("--pipe of %d commands = %q, want an end of %q", commands, got, want)
	}
	last := commands - 1
	got := succeed(t, r.command(t.Context(), addr, "GET", fmt.Sprintf("key:%d", last)))
	if want := fmt.Sprintf("%d\n", last*last); got != want {
		t.Errorf("the last key = %q, want %q", got, want)
	}
}

// redisBlockingPop waits for an element that another client brings.
func redisBlockingPop(t *testing.T, r *redis, addr string) {
	popped := inBackground(t, r.command(t.Context(), addr, "BLPOP", "queue", "60"))
	eventually(t, 10*time.Second, func(ctx context.Context) error {
		out, err := output(r.command(ctx, r.addr, "INFO", "clients"))
		if err == nil && !strings.Contains(out, "blocked_clients:1\r\n") {
			err = fmt.Errorf("no client is blocked: %s", out)
		}
		return err
	})
	succeed(t, r.command(t.Context(), addr, "RPUSH", "queue", "element"))
	if got, err := popped(); err != nil || got != "queue\nelement\n" {
		t.Errorf("BLPOP = %q, %v, want queue and element", got, err)
	}
}

// redisPubSub receives messages for as long as the client likes, then the client
// goes away and the server has to notice.
func redisPubSub(t *testing.T, r *redis, addr string) {
	const messages = 1000
	subscriber := r.command(t.Context(), addr, "SUBSCRIBE", "news")
	out, err := subscriber.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := subscriber.Start(); err != nil {
		t.Fatal(err)
	}
	subscribers := func(want int) {
		t.Helper()
		eventually(t, 10*time.Second, func(ctx context.Context) error {
			got, err := output(r.command(ctx, r.addr, "PUBSUB", "NUMSUB", "news"))
			if err == nil && got != fmt.Sprintf("news\n%d\n", want) {
				err = fmt.Errorf("subscribers = %q, want %d", got, want)
			}
			return err
		})
	}
	subscribers(1)

	var script strings.Builder
	for i := range messages {
		fmt.Fprintf(&script, "PUBLISH news message-%d\n", i)
	}
	publisher := r.command(t.Context(), addr)
	publisher.Stdin = strings.NewReader(script.String())
	succeed(t, publisher)

	lines, next := bufio.NewScanner(out), 0
	for next < messages && lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "message-") {
			continue
		}
		if want := fmt.Sprintf("message-%d", next); lines.Text() != want {
			t.Fatalf("message %q, want %q", lines.Text(), want)
		}
		next++
	}
	if next != messages {
		t.Errorf("%d messages arrived, want %d: %v", next, messages, lines.Err())
	}
	if err := subscriber.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = subscriber.Wait() // it was killed
	subscribers(0)
}
