package audit

import (
	"context"
	"log/slog"
	"net/netip"

	ohrouter "github.com/ohrouter/oh-router"
	"github.com/ohrouter/oh-router/internal/fair"
)

// Stranger is the address of one who has not proved who he is, as the value of
// an attribute in the log. What it says is that he may have the line written as
// often as he likes.
type Stranger netip.AddrPort

// LogValue returns the address.
func (s Stranger) LogValue() slog.Value {
	a := netip.AddrPort(s)
	return slog.StringValue(netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String())
}

// Quiet returns a handler that gives h the lines about a [Stranger] as the audit
// log has refusals: the first of a message, code and source at once, and those
// that follow as one line every minute, the last of them, with their count. All
// others it gives to h. The call of end gives h what is held back.
func Quiet(h slog.Handler) (quiet slog.Handler, end func()) {
	s := &sums[logged]{emit: logged.emit}
	return quietHandler{h, s}, s.end
}

type quietHandler struct {
	slog.Handler

	sums *sums[logged]
}

// logged is a line, and who was to write it.
type logged struct {
	record slog.Record
	by     slog.Handler
}

// Handle gives a record to the handler beneath, now or later.
func (q quietHandler) Handle(ctx context.Context, r slog.Record) error {
	k, strange := kind{event: r.Message}, false
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == codeKey {
			k.code = ohrouter.Code(a.Value.String())
		}
		if a.Value.Kind() == slog.KindLogValuer {
			if s, is := a.Value.LogValuer().(Stranger); is {
				k.source, strange = fair.Source(netip.AddrPort(s).Addr()), true
			}
		}
		return true
	})
	if strange && !q.sums.add(k, logged{r, q.Handler}) {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

const codeKey = "code"

// WithAttrs returns a handler with attributes, one of whose values must not be a
// Stranger.
func (q quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{q.Handler.WithAttrs(attrs), q.sums}
}

// WithGroup returns a handler with a group.
func (q quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{q.Handler.WithGroup(name), q.sums}
}

func (l logged) emit(n uint64, others bool) {
	r := l.record.Clone()
	if others { // the last one's address says nothing of them
		r = slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
		l.record.Attrs(func(a slog.Attr) bool {
			if a.Key == codeKey {
				r.AddAttrs(a)
			}
			return true
		})
		r.AddAttrs(slog.String("of", tooMany))
	}
	r.AddAttrs(slog.Uint64("count", n))
	_ = l.by.Handle(context.Background(), r) // a log that cannot be written has nobody to say it to
}

// tooMany is what is said of sums of others.
const tooMany = "more sources, or calls, than are counted one by one"
