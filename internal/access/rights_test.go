package access

import (
	"testing"
	"time"

	ohrouter "github.com/ohrouter/oh-router"
)

// callers returns one of each role, and anybody.
func callers(t testing.TB) map[string]Caller {
	t.Helper()
	tokens := open(t, Config{})
	all := map[string]Caller{"anybody": Anybody(), "nobody": {}}
	for _, spec := range []ohrouter.TokenSpec{
		admin("admin"),
		{Name: "viewer", Role: ohrouter.Viewer},
		{
			Name: "user", Role: ohrouter.User, Targets: []string{"*.internal:5432", "10.0.0.0/8:*"}, Proxies: []string{"east", "west"},
			Ports: &ohrouter.PortRange{Low: 20000, High: 20009}, MaxTTL: ohrouter.Duration(time.Hour),
		},
		{Name: "told", Role: ohrouter.User, Targets: []string{"any"}, Reasons: true},
	} {
		c, err := tokens.Authenticate(create(t, tokens, spec).Secret)
		if err != nil {
			t.Fatal(err)
		}
		all[spec.Name] = c
	}
	return all
}

// TestRights is the table of the documentation, by role and right.
func TestRights(t *testing.T) {
	own := func(c Caller) string {
		if c.Owner() == "" {
			return "t-gone"
		}
		return c.Owner()
	}
	for right, can := range map[string]func(Caller) bool{
		"see its bindings":          func(c Caller) bool { return c.SeesBinding(own(c)) },
		"see others' bindings":      func(c Caller) bool { return c.SeesBinding("t-other") },
		"see bindings of nobody":    func(c Caller) bool { return c.SeesBinding("") },
		"change its bindings":       func(c Caller) bool { return c.Changes(own(c)) == nil },
		"change others' bindings":   func(c Caller) bool { return c.Changes("t-other") == nil },
		"change bindings of nobody": func(c Caller) bool { return c.Changes("") == nil },
		"see its token":             func(c Caller) bool { return c.SeesToken(own(c)) },
		"see others' tokens":        func(c Caller) bool { return c.SeesToken("t-other") },
		"manage tokens":             func(c Caller) bool { return c.ManagesTokens() == nil },
		"manage proxies":            func(c Caller) bool { return c.ManagesProxies() == nil },
		"see metrics":               Caller.SeesMetrics,
		"see reasons":               Caller.SeesReasons,
		"map any target":            func(c Caller) bool { return c.MayBind(spec(t, "example.com:443")) == nil },
		"map a granted target":      func(c Caller) bool { return c.MayBind(spec(t, "db.internal:5432")) == nil },
	} {
		want := map[string]bool{"anybody": true, "admin": true}
		switch right {
		case "see its bindings", "see its token":
			want["viewer"], want["user"], want["told"] = true, true, true
		case "see others' bindings", "see bindings of nobody", "see metrics":
			want["viewer"] = true
		case "change its bindings":
			want["user"], want["told"] = true, true
		case "see reasons":
			want["viewer"], want["told"] = true, true
		case "map any target":
			want["told"] = true
		case "map a granted target":
			want["user"], want["told"] = true, true
		}
		for name, c := range callers(t) {
			if got := can(c); got != want[name] {
				t.Errorf("%s may %s: %v, want %v", name, right, got, want[name])
			}
		}
	}
}

func spec(t testing.TB, target string) ohrouter.BindingSpec {
	t.Helper()
	to, err := ohrouter.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	return ohrouter.BindingSpec{Target: to}
}

func TestGrant(t *testing.T) {
	c := callers(t)["user"]
	with := func(change func(*ohrouter.BindingSpec)) ohrouter.BindingSpec {
		s := spec(t, "db.internal:5432")
		change(&s)
		return s
	}
	for what, tt := range map[string]struct {
		spec ohrouter.BindingSpec
		want ohrouter.Code
	}{
		"name":              {spec(t, "db.internal:5432"), ""},
		"other port":        {spec(t, "db.internal:5433"), ohrouter.Forbidden},
		"other name":        {spec(t, "db.example:5432"), ohrouter.Forbidden},
		"address":           {spec(t, "10.1.2.3:1"), ""},
		"other address":     {spec(t, "11.1.2.3:1"), ohrouter.Forbidden},
		"mapped address":    {spec(t, "[::ffff:10.1.2.3]:1"), ""},
		"loopback":          {spec(t, "127.0.0.1:5432"), ohrouter.Forbidden},
		"its proxy":         {with(func(s *ohrouter.BindingSpec) { s.Proxy = "west" }), ""},
		"other proxy":       {with(func(s *ohrouter.BindingSpec) { s.Proxy = "north" }), ohrouter.Forbidden},
		"its port":          {with(func(s *ohrouter.BindingSpec) { s.Port = 20009 }), ""},
		"other mapped port": {with(func(s *ohrouter.BindingSpec) { s.Port = 20010 }), ohrouter.Forbidden},
		"its ttl":           {with(func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Hour) }), ""},
		"longer ttl":        {with(func(s *ohrouter.BindingSpec) { s.TTL = ohrouter.Duration(time.Hour + 1) }), ohrouter.Forbidden},
	} {
		wantCode(t, what, c.MayBind(tt.spec), tt.want)
	}
	for ttl, want := range map[time.Duration]ohrouter.Code{0: ohrouter.Forbidden, time.Hour: "", time.Hour + 1: ohrouter.Forbidden} {
		wantCode(t, ttl.String(), c.MayPatch(ohrouter.BindingPatch{TTL: new(ohrouter.Duration(ttl))}), want)
	}
	wantCode(t, "a patch of something else", c.MayPatch(ohrouter.BindingPatch{}), "")
	if err := Anybody().MayPatch(ohrouter.BindingPatch{TTL: new(ohrouter.Duration(0))}); err != nil {
		t.Errorf("anybody's patch = %v", err)
	}
}

func TestSeesProxy(t *testing.T) {
	p := ohrouter.Proxy{Name: "east", Address: "10.0.1.9:9000", State: ohrouter.ProxyDown, Links: 3, LastError: &ohrouter.Failure{Message: "10.0.1.9"}}
	all := callers(t)
	for name, want := range map[string]ohrouter.Proxy{
		"anybody": p, "admin": p, "viewer": p, "nobody": {},
		"user": {Name: "east", State: ohrouter.ProxyDown}, "told": {Name: "east", State: ohrouter.ProxyDown},
	} {
		if got, ok := all[name].SeesProxy(p); got != want || ok != (name != "nobody") {
			t.Errorf("%s sees %+v, %v, want %+v", name, got, ok, want)
		}
	}
	if _, ok := all["user"].SeesProxy(ohrouter.Proxy{Name: "north"}); ok {
		t.Error("a user sees a proxy that is not granted")
	}
}
