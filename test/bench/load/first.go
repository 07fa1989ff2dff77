//go:build linux

package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"
)

// firstBytes makes sessions one after the other and takes the time from
// connecting to the first byte that comes back.
func (w *work) firstBytes(ctx context.Context) (Result, error) {
	w.mark()
	var d dialer
	var r Result
	for range w.job.Count {
		took, err := firstByte(ctx, &d, w.job)
		if err != nil {
			return Result{}, err
		}
		r.Samples = append(r.Samples, took)
	}
	return r, nil
}

func firstByte(ctx context.Context, d *dialer, job Job) (time.Duration, error) {
	buf := make([]byte, message)
	start := time.Now()
	c, err := d.dial(ctx, job.Addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(start.Add(patience)) // it is not closed
	if job.Kind == ClientFirst {
		buf[0] = modeEcho
		if _, err := c.Write(buf); err != nil {
			return 0, err
		}
	}
	if _, err := io.ReadFull(c, buf[:1]); err != nil {
		return 0, err
	}
	return time.Since(start), nil
}

// binds makes plain connects to the target and bind calls for it in turn. The
// binding is deleted after each, so that every call connects to the target.
func (w *work) binds(ctx context.Context) (Result, error) {
	w.mark()
	var d dialer
	var r Result
	for i := range w.job.Count + 1 {
		start := time.Now()
		c, err := d.dial(ctx, w.job.Target)
		if err != nil {
			return Result{}, err
		}
		connected := time.Since(start)
		c.Close()
		start = time.Now()
		b, err := CreateBinding(ctx, w.job.API, w.job.Target, true)
		if err != nil {
			return Result{}, err
		}
		bound := time.Since(start)
		if err := DeleteBinding(ctx, w.job.API, b.ID); err != nil {
			return Result{}, err
		}
		if i > 0 { // the first opens the connection to the API
			r.Connects, r.Samples = append(r.Connects, connected), append(r.Samples, bound)
		}
	}
	return r, nil
}

// Binding is what a router answers to a bind call.
type Binding struct {
	ID      string         `json:"id"`
	Address netip.AddrPort `json:"address"`
}

// CreateBinding binds a target by the REST API at url. Without check nothing is
// connected before the first session.
func CreateBinding(ctx context.Context, url string, target netip.AddrPort, check bool) (Binding, error) {
	body, err := json.Marshal(map[string]any{"target": target, "check": check})
	if err != nil {
		return Binding{}, err
	}
	answer, err := call(ctx, http.MethodPost, url+"/v1/bindings", body)
	if err != nil {
		return Binding{}, err
	}
	var b Binding
	if err := json.Unmarshal(answer, &b); err != nil {
		return Binding{}, fmt.Errorf("read the binding: %w", err)
	}
	return b, nil
}

// DeleteBinding releases a binding.
func DeleteBinding(ctx context.Context, url, id string) error {
	_, err := call(ctx, http.MethodDelete, url+"/v1/bindings/"+id, nil)
	return err
}

// Client makes calls of a REST API that the benchmark has started itself:
// whatever certificate that has is right.
var Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// call makes a call of the REST API and reads the whole answer, so that the
// next call finds the connection open.
func call(ctx context.Context, method, url string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %.300s", method, url, resp.Status, answer)
	}
	return answer, nil
}
