package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ohrouter/oh-router/test/bench/delay"
	"github.com/ohrouter/oh-router/test/bench/load"
)

// The subcommands by which the program runs parts of itself as processes of
// their own.
const (
	targetCommand = "target"
	loadCommand   = "load"
	delayCommand  = "delay"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case targetCommand:
			return load.ServeTarget(ctx, os.Stdin, os.Stdout)
		case loadCommand:
			return load.ServeJob(ctx, os.Stdin, os.Stdout)
		case delayCommand:
			return serveDelay(ctx, args[1:])
		}
	}
	opts, err := parse(args, os.Stderr)
	if err != nil {
		return err
	}
	return bench(ctx, opts)
}

// serveDelay is the delaying forwarder's process. Its arguments are where it
// listens, where it connects to, and the round trip.
func serveDelay(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errors.New("delay takes FROM TO ROUNDTRIP")
	}
	to, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	roundTrip, err := time.ParseDuration(args[2])
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", args[0])
	if err != nil {
		return err
	}
	return delay.Serve(ctx, ln, to, roundTrip)
}

// options is what the command line asks for.
type options struct {
	chains   []string // names; none: all
	only     []string // workloads or groups; none: all
	rounds   int
	window   time.Duration
	warmup   time.Duration
	idle     int // sessions that are opened for the idle workload
	binds    int // bind calls in a sample
	retries  int // of a disturbed window
	tls      bool
	distance bool
	smoke    bool
	reset    bool
	binaries []string // [NAME=]FILE
	json     string
	svg      string
	markdown string
	command  string // as the report shows it
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{command: strings.Join(append([]string{"go run ./test/bench"}, args...), " ")}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(stderr)
	list := func(into *[]string) func(string) error {
		return func(s string) error { *into = append(*into, strings.Split(s, ",")...); return nil }
	}
	fs.Func("chains", "comma list of the `chains` to run (default: all that are found, without TLS)", list(&o.chains))
	fs.Func("only", "comma list of `workloads` or their groups: stream, rr, crr-16, ... (default: all)", list(&o.only))
	fs.IntVar(&o.rounds, "rounds", 5, "how often each chain has its turn under each workload")
	fs.DurationVar(&o.window, "window", 1500*time.Millisecond, "length of what is measured at a time")
	fs.DurationVar(&o.warmup, "warmup", 300*time.Millisecond, "load before each window")
	fs.IntVar(&o.idle, "idle", 2000, "idle sessions to open for their memory")
	fs.IntVar(&o.binds, "binds", 200, "bind calls in each sample")
	fs.IntVar(&o.retries, "retries", 3, "how often a disturbed window is repeated")
	fs.BoolVar(&o.tls, "tls", false, "also run the chains with TLS between their hops")
	fs.BoolVar(&o.distance, "distance", false, "put 1, 20 and 100 ms between the hops instead, and measure what that costs")
	fs.BoolVar(&o.smoke, "smoke", false, "one short round: only to see that everything works")
	closing := fs.String("close", "fin", "how a crr client closes: `fin` or rst")
	fs.Func("binary", "measure this oh-router `[NAME=]FILE` and build none (repeatable)", func(s string) error {
		o.binaries = append(o.binaries, s)
		return nil
	})
	fs.StringVar(&o.json, "json", "", "write all samples to this `file`")
	fs.StringVar(&o.svg, "svg", "", "write charts to this `folder`")
	fs.StringVar(&o.markdown, "md", "", "write what is printed to this `file`, too")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	o.reset = *closing == "rst"
	switch {
	case fs.NArg() > 0:
		return nil, fmt.Errorf("what is %q? There are flags only", fs.Arg(0))
	case o.rounds < 1 || o.window <= 0 || o.idle < 1 || o.binds < 1 || o.retries < 0:
		return nil, errors.New("rounds, window, idle and binds must be above 0")
	case !o.reset && *closing != "fin":
		return nil, fmt.Errorf("-close is fin or rst, not %q", *closing)
	}
	if o.smoke {
		o.rounds, o.retries, o.window, o.warmup = 1, 0, 150*time.Millisecond, 50*time.Millisecond
		o.idle, o.binds = min(o.idle, 200), min(o.binds, 10)
	}
	return o, nil
}
