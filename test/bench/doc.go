// Bench compares oh-router with other TCP forwarders on this machine.
//
//	go run ./test/bench [flags]             everything, about a quarter of an hour
//	go run ./test/bench -chains oh-router,haproxy -only crr,rr-64 -rounds 3
//	go run ./test/bench -distance           with 1, 20 and 100 ms between the hops
//	go run ./test/bench -smoke              does it still work? under a minute
//
// It builds oh-router, starts every chain that it finds (client → first hop →
// second hop → target, each a process of its own on loopback) and keeps all of
// them up. A round goes through all workloads; under each workload the chains
// take turns, so that whatever changes on the machine meets all of them. A
// window in which other programs or the hypervisor took more CPU time than a
// fixed limit is dropped and repeated (see package measure). What is shown are
// medians over the rounds, with minimum and maximum, and ratios to HAProxy.
//
// All sizes are of the load as the clients see it: bytes count once, and CPU
// time is that of both hops, without client and target. A crr client connects
// from one of 16 addresses of 127.0.1.0/24 and closes with a FIN, or with
// -close rst with a RST.
package main
