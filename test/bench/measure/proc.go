package measure

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU time in /proc: USER_HZ is 100 on every architecture
// that Go runs on.
const tick = 10 * time.Millisecond

// parseStat reads the first line of /proc/stat.
func parseStat(stat []byte) (busy, steal time.Duration, err error) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	fields := strings.Fields(string(line))
	// cpu user nice system idle iowait irq softirq steal [guest ...]; guest time
	// is part of user time. Interrupts are left out: nobody's processes run in
	// them, and they are mostly the benchmark's own packets.
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("read /proc/stat: its first line is %.80q", line)
	}
	var v [9]time.Duration
	for i := 1; i < len(v); i++ {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		v[i] = time.Duration(n) * tick
	}
	return v[1] + v[2] + v[3], v[8], nil
}

// process is what /proc/PID/stat tells.
type process struct {
	pid, parent int
	name        string
	children    time.Duration // CPU time of its children that have ended and been waited for
}

func parseProcess(stat []byte) (process, error) {
	// The name stands in parentheses and may hold any byte, also ") ".
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return process{}, fmt.Errorf("read the stat file of a process: %.80q", stat)
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 15 {
		return process{}, fmt.Errorf("read the stat file of a process: only %d fields", len(fields))
	}
	var bad error
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil && bad == nil {
			bad = fmt.Errorf("read the stat file of a process: %w", err)
		}
		return n
	}
	p := process{
		pid: int(number(strings.TrimSpace(string(stat[:open])))), name: string(stat[open+1 : end]),
		parent:   int(number(fields[1])),
		children: time.Duration(number(fields[13])+number(fields[14])) * tick,
	}
	return p, bad
}

// descendants returns root and all that it has started, by the parents of all
// processes.
func descendants(all []process, root int) []int {
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		for _, p := range all {
			if p.parent == tree[i] && !slices.Contains(tree, p.pid) {
				tree = append(tree, p.pid)
			}
		}
	}
	return tree
}

// Memory is what processes hold, in bytes.
type Memory struct {
	RSS int64 // resident; pages that two processes share count twice
	PSS int64 // the same, shared pages divided among those that share them
}

// parseRollup reads /proc/PID/smaps_rollup.
func parseRollup(rollup []byte) (Memory, error) {
	var m Memory
	for line := range strings.Lines(string(rollup)) {
		key, value, _ := strings.Cut(line, ":")
		into := map[string]*int64{"Rss": &m.RSS, "Pss": &m.PSS}[key]
		if into == nil {
			continue
		}
		number, ok := strings.CutSuffix(strings.TrimSpace(value), " kB")
		n, err := strconv.ParseInt(number, 10, 64)
		if !ok || err != nil {
			return Memory{}, fmt.Errorf("read smaps_rollup: the line is %.80q", line)
		}
		*into = n * 1024
	}
	if m.RSS == 0 {
		return Memory{}, fmt.Errorf("read smaps_rollup: there is no Rss")
	}
	return m, nil
}

// parseListening returns the IPv4 addresses in /proc/net/tcp that listen.
func parseListening(table []byte) map[netip.AddrPort]bool {
	const stateListen = "0A"
	listening := map[netip.AddrPort]bool{}
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != stateListen {
			continue
		}
		host, port, _ := strings.Cut(fields[1], ":")
		a, err := hex.DecodeString(host)
		p, perr := strconv.ParseUint(port, 16, 16)
		if err != nil || perr != nil || len(a) != 4 {
			continue
		}
		// The kernel prints the address as one number in the machine's byte
		// order, which is little-endian wherever this runs.
		slices.Reverse(a)
		listening[netip.AddrPortFrom(netip.AddrFrom4([4]byte(a)), uint16(p))] = true
	}
	return listening
}
