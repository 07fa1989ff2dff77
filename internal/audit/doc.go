// Package audit writes who did what, and who was not allowed to: one line of
// JSON for each event, on a stream of its own.
//
// What may happen is a closed list ([Events]), and so are the fields of a line
// ([Entry]). No field has a secret. What comes from outside is escaped, so that
// a line is a line whatever somebody calls himself, and cut when it is long.
//
// Nothing waits for the stream: [Log.Record] puts an event into a queue and
// returns, from wherever it is called. When the stream is slow or full for so
// long that the queue is, events are lost; that is counted, the log says it, and
// so does a line of the stream itself as soon as there is one again.
package audit
