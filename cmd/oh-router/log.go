package main

import (
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/ohrouter/oh-router/internal/audit"
	"github.com/ohrouter/oh-router/internal/config"
)

// newLog returns a log to w. The call of end has it tell what it held back.
func newLog(w io.Writer, format config.LogFormat, level slog.Leveler) (log *slog.Logger, end func()) {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: readable}
	var h slog.Handler = slog.NewJSONHandler(w, options)
	if format == config.TextLog || format == config.AutoLog && isTerminal(w) {
		h = slog.NewTextHandler(w, options)
	}
	h, end = audit.Quiet(h)
	return slog.New(h), end
}

// maxLogged is how much of a text the log has.
const maxLogged = 2048

// readable writes durations as Go strings, as the API does: JSON would have
// nanoseconds. Texts may be anybody's: what cannot be seen is escaped, what is
// long is cut, and a token is not shown.
func readable(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value; v.Kind() {
	case slog.KindDuration:
		a.Value = slog.StringValue(v.Duration().String())
	case slog.KindString:
		if a.Key == "stack" { // ours alone, and long
			break
		}
		a.Value = slog.StringValue(loggable(v.String()))
	case slog.KindAny:
		if err, is := v.Any().(error); is {
			a.Value = slog.StringValue(loggable(err.Error()))
		}
	}
	return a
}

func loggable(s string) string {
	s = audit.Hide(s)
	if len(s) > maxLogged {
		s = strings.ToValidUTF8(s[:maxLogged], "") + "…"
	}
	return printable(s)
}

// isTerminal tells whether w is a terminal, or close to one: a character
// device.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
