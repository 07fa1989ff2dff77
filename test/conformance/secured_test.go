//go:build linux

package conformance

import "testing"

// overTLS are the tests of what sessions are promised, and of what a fault may
// not change: they hold for links with certificates as well.
var overTLS = map[string]func(*testing.T){
	"BytesArriveWhole":                 TestBytesArriveWhole,
	"ConcurrentSessionsKeepBytesApart": TestConcurrentSessionsKeepBytesApart,
	"ServerSpeaksFirst":                TestServerSpeaksFirst,
	"RequestAndFINTogether":            TestRequestAndFINTogether,
	"FINAtOnce":                        TestFINAtOnce,
	"ConnectAndCloseAtOnce":            TestConnectAndCloseAtOnce,
	"CountersAreLive":                  TestCountersAreLive,
	"SilentSessionStays":               TestSilentSessionStays,

	"HalfCloseThenLongReply":        TestHalfCloseThenLongReply,
	"ResetCrosses":                  TestResetCrosses,
	"DataBeforeReset":               TestDataBeforeReset,
	"MuchDataBeforeReset":           TestMuchDataBeforeReset,
	"ResetAfterHalfCloseBySameEnd":  TestResetAfterHalfCloseBySameEnd,
	"ResetAfterHalfCloseByOtherEnd": TestResetAfterHalfCloseByOtherEnd,
	"FlushOnClose":                  TestFlushOnClose,
	"KillSession":                   TestKillSession,
	"KillBlockedSession":            TestKillBlockedSession,
	"Outcomes":                      TestOutcomes,

	"TargetSpeaksAndHalfClosesAtOnce": TestTargetSpeaksAndHalfClosesAtOnce,
	"TargetHalfClosesAtOnce":          TestTargetHalfClosesAtOnce,
	"TargetClosesAtOnce":              TestTargetClosesAtOnce,
	"TargetResetsAtOnce":              TestTargetResetsAtOnce,

	"CrashIsReset":                    TestCrashIsReset,
	"CrashDuringTransferIsReset":      TestCrashDuringTransferIsReset,
	"CrashOfHalfClosedSessionIsReset": TestCrashOfHalfClosedSessionIsReset,
	"RouterOutlivesProxy":             TestRouterOutlivesProxy,
	"ProxyDiesBeforeFirstClient":      TestProxyDiesBeforeFirstClient,
	"StoppedProxy":                    TestStoppedProxy,
	"TargetGoesAndComes":              TestTargetGoesAndComes,

	"FarSessions":        TestFarSessions,
	"FarProxyComesAgain": TestFarProxyComesAgain,

	"BackPressure":           TestBackPressure,
	"SlowReaderDelaysNobody": TestSlowReaderDelaysNobody,
	"MixedEndsLeaveNothing":  TestMixedEndsLeaveNothing,
	"NobodyIsCutCleanly":     TestNobodyIsCutCleanly,

	"RouterDrains":                   TestRouterDrains,
	"ProxyDrains":                    TestProxyDrains,
	"DrainDoesNotWaitForParkedCheck": TestDrainDoesNotWaitForParkedCheck,
	"DrainTimeoutResets":             TestDrainTimeoutResets,
	"SecondSignalExitsAtOnce":        TestSecondSignalExitsAtOnce,

	"ProxyDeniesByDefault":       TestProxyDeniesByDefault,
	"CheckBecomesFirstSession":   TestCheckBecomesFirstSession,
	"ParkedCheckIsDropped":       TestParkedCheckIsDropped,
	"TargetHangsUpOnParkedCheck": TestTargetHangsUpOnParkedCheck,
	"DeleteCutsSessions":         TestDeleteCutsSessions,
	"DeleteDropsParkedCheck":     TestDeleteDropsParkedCheck,
	"DeleteWithDrain":            TestDeleteWithDrain,
	"DrainsEndResets":            TestDrainsEndResets,
	"GarbageAtLinkPort":          TestGarbageAtLinkPort,
	"GarbageThroughMappedPort":   TestGarbageThroughMappedPort,
	"TrickleAtLinkPort":          TestTrickleAtLinkPort,
	"ProxySpeaksGarbage":         TestProxySpeaksGarbage,
}

// TestOverTLS runs them with a router and a proxy as two machines would have
// them: a CA of their own, mutual TLS on links, HTTPS and a token at the API.
func TestOverTLS(t *testing.T) {
	for name, test := range overTLS {
		t.Run(name, test)
	}
}
