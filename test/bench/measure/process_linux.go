package measure

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine returns the CPU time that all processes and the hypervisor's other
// guests have taken since the machine started.
func Machine() (busy, steal time.Duration, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(stat)
}

// Processes is a snapshot of who has started whom.
type Processes struct{ all []process }

// List takes a snapshot of all processes. One that ends meanwhile may be
// missing.
func List() (Processes, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return Processes{}, err
	}
	var ps Processes
	for _, f := range files {
		stat, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		p, err := parseProcess(stat)
		if err != nil {
			return Processes{}, err
		}
		ps.all = append(ps.all, p)
	}
	return ps, nil
}

// Tree returns root and all processes that descend from it.
func (ps Processes) Tree(root int) []int { return descendants(ps.all, root) }

// CPU returns the CPU time of the tree under root, that of its children that
// have ended included.
func (ps Processes) CPU(root int) time.Duration {
	in := map[int]bool{}
	for _, pid := range ps.Tree(root) {
		in[pid] = true
	}
	var sum time.Duration
	for _, p := range ps.all {
		if in[p.pid] {
			sum += cpuClock(p.pid) + p.children
		}
	}
	return sum
}

// Split returns the CPU time of the processes in known and that of all others,
// that of children that have ended included in both. The kernel's threads that
// take over the network's work when there is much of it are known, too.
func (ps Processes) Split(known map[int]bool) (ours, others time.Duration) {
	for _, p := range ps.all {
		cpu := cpuClock(p.pid) + p.children
		if known[p.pid] || strings.HasPrefix(p.name, "ksoftirqd/") {
			ours += cpu
		} else {
			others += cpu
		}
	}
	return ours, others
}

// cpuClock returns the CPU time of all threads of a process, those that have
// ended included: utime + stime, but to the nanosecond and not in ticks of
// 10 ms. It is 0 for a process that has ended.
func cpuClock(pid int) time.Duration {
	const schedulerClock = 2 // CPUCLOCK_SCHED of the kernel's posix-timers
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|schedulerClock), &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// Memory returns what the tree under root holds.
func (ps Processes) Memory(root int) (Memory, error) {
	var sum Memory
	for _, pid := range ps.Tree(root) {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			if pid == root {
				return Memory{}, err
			}
			continue // a child that has ended
		}
		m, err := parseRollup(rollup)
		if err != nil {
			continue // a child that is just ending has no memory any more
		}
		sum.RSS += m.RSS
		sum.PSS += m.PSS
	}
	return sum, nil
}

// Descriptors returns how many descriptors the tree under root has open.
func (ps Processes) Descriptors(root int) int {
	n := 0
	for _, pid := range ps.Tree(root) {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			continue // it has ended
		}
		n += len(fds)
	}
	return n
}

// Listening tells whether all addresses listen. It asks the kernel's table:
// connecting would already use what is to be measured.
func Listening(addrs ...netip.AddrPort) (bool, error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return false, err
	}
	listening := parseListening(table)
	for _, a := range addrs {
		anyAddr := netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
		if !listening[a] && !listening[anyAddr] {
			return false, nil
		}
	}
	return true, nil
}
