// Package e2e drives real servers (MariaDB, PostgreSQL, Redis, nginx, sshd)
// with their own clients through the oh-router program.
//
// The tests build the program once, run a router and a proxy as processes of
// their own, and start each server on a loopback address with data of its own.
// Nothing needs an installed service, and nothing is left behind. A server or
// client that the machine does not have skips its tests by name; with
// OH_ROUTER_REQUIRE_SERVERS=1 it fails them. -short leaves out the 200 MB
// dump.
package e2e
