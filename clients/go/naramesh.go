// Package naramesh uses a running nara through its local API: docs/local-api.md of nara-mesh.
//
// A [Nara] represents its socket. Methods return a [*Problem] as their error if the nara refused or failed.
package naramesh

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrNoNara reports that no usable nara runs, or that several do.
var ErrNoNara = errors.New("no nara to use")

// maxEvent is the longest server-sent event that is read, in bytes.
const maxEvent = 16 << 20

// Nara is a running nara of this machine. It is safe for concurrent use.
type Nara struct {
	client *http.Client
}

// Open returns the nara that listens on a socket.
func Open(socket string) *Nara {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}
	return &Nara{client: &http.Client{
		Transport: &http.Transport{DialContext: dial, DisableCompression: true},
		// Redirects of a peer are returned, not followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Find returns the running nara of this user: the one with this name or, if the name is empty, the one of
// NARA_MESH_SOCKET or the only one. Its error wraps [ErrNoNara].
func Find(name string) (*Nara, error) {
	if socket := os.Getenv("NARA_MESH_SOCKET"); socket != "" && name == "" {
		return Open(socket), nil
	}
	runtime := os.Getenv("XDG_RUNTIME_DIR")
	if runtime == "" {
		return nil, fmt.Errorf("%w: XDG_RUNTIME_DIR is not set: set NARA_MESH_SOCKET", ErrNoNara)
	}
	folder := filepath.Join(runtime, "nara-mesh")
	sockets := []string{filepath.Join(folder, segment(name)+".sock")}
	if name == "" {
		entries, _ := os.ReadDir(folder)
		sockets = sockets[:0]
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), ".sock") {
				sockets = append(sockets, filepath.Join(folder, entry.Name()))
			}
		}
	}
	var running []string
	for _, socket := range sockets {
		if connection, err := net.Dial("unix", socket); err == nil {
			connection.Close()
			running = append(running, socket)
		}
	}
	switch len(running) {
	case 0:
		return nil, fmt.Errorf("%w: none runs in %s: start one with `nara-mesh up` or `nara-mesh serve`", ErrNoNara, folder)
	case 1:
		return Open(running[0]), nil
	default:
		return nil, fmt.Errorf("%w: several run: %s: choose one by name", ErrNoNara, strings.Join(running, ", "))
	}
}

// Problem is the error of a nara that refuses or fails (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Class is "usage", "untrusted", "unreachable" or "failed".
	Class string `json:"class"`
	// Hint says what to do next, if known.
	Hint string `json:"hint"`
	// Field is the invalid field of the request, if any.
	Field string `json:"field"`
}

// Name is the stable name of the problem, such as "unknown_peer".
func (p *Problem) Name() string {
	return strings.TrimPrefix(p.Type, "urn:nara-mesh:problem:")
}

func (p *Problem) Error() string {
	if p.Hint == "" {
		return p.Detail
	}
	return p.Detail + " (" + p.Hint + ")"
}

// Status describes the running nara.
type Status struct {
	Name    string  `json:"name"`
	ID      string  `json:"id"`
	KeyID   string  `json:"key_id"`
	Address *string `json:"address"`
	Network *string `json:"network"`
	Version string  `json:"version"`
	Peers   int     `json:"peers"`
	Events  int     `json:"events"`
}

// Peer is a known nara.
type Peer struct {
	Label    string  `json:"label"`
	Name     *string `json:"name"`
	ID       *string `json:"id"`
	Address  *string `json:"address"`
	KeyID    *string `json:"key_id"`
	Verdict  *string `json:"verdict"`
	Presence string  `json:"presence"`
	IsDown   bool    `json:"is_down"`
}

// Pong is the answer of a peer to a ping.
type Pong struct {
	RTTMicros  uint64 `json:"rtt_us"`
	Name       string `json:"name"`
	KeyMatches *bool  `json:"key_matches"`
	Security   string `json:"security"`
}

// Receipt is the receipt of a direct message.
type Receipt struct {
	EventID   string `json:"event_id"`
	Recipient string `json:"recipient"`
	Stored    bool   `json:"stored"`
	Verified  bool   `json:"verified"`
}

// Sent is the outcome of a message that may wait. Exactly one field is set.
type Sent struct {
	// Receipt is set if it was delivered at once.
	Receipt *Receipt
	// Waits is set if it waits in the outbox.
	Waits *OutboxEntry
}

// OutboxEntry is a message in the outbox.
type OutboxEntry struct {
	ID uint64 `json:"id"`
	// Kind is "direct-message", "postcard" or "runtime-message".
	Kind string `json:"kind"`
	Peer string `json:"peer"`
	// EventID is the id of the event, the postcard or the runtime message, and Event the content of every
	// attempt.
	EventID string          `json:"event_id"`
	Event   json.RawMessage `json:"event"`
	// State is "waiting", "delivered", "refused" or "expired".
	State string `json:"state"`
	// ExpiresAt is in Unix milliseconds.
	ExpiresAt      int64  `json:"expires_at_ms"`
	Attempts       uint32 `json:"attempts"`
	MayHaveArrived bool   `json:"may_have_arrived"`
	// Problem says why the last attempt failed.
	Problem *Problem `json:"problem"`
	// IsDurable says whether it survives a restart of the nara.
	IsDurable bool `json:"is_durable"`
}

// Message is a verified message in the inbox. By the Kind, one of Event, Postcard and Message is set.
type Message struct {
	Cursor     string          `json:"cursor"`
	ReceivedAt int64           `json:"received_at_ms"`
	Kind       string          `json:"kind"`
	From       string          `json:"from"`
	Event      json.RawMessage `json:"event"`
	Postcard   json.RawMessage `json:"postcard"`
	Message    json.RawMessage `json:"message"`
}

// Status returns the running nara.
func (n *Nara) Status(ctx context.Context) (*Status, error) {
	return call[Status](ctx, n, http.MethodGet, "/v1/status", nil)
}

// Peers returns the known peers.
func (n *Nara) Peers(ctx context.Context) ([]Peer, error) {
	list, err := call[struct{ Peers []Peer }](ctx, n, http.MethodGet, "/v1/peers", nil)
	if err != nil {
		return nil, err
	}
	return list.Peers, nil
}

// Ping measures the round trip to a peer, given by name, id or address.
func (n *Nara) Ping(ctx context.Context, peer string) (*Pong, error) {
	return call[Pong](ctx, n, http.MethodPost, peerPath(peer, "ping"), nil)
}

// DM sends a direct message.
func (n *Nara) DM(ctx context.Context, peer, text string) (*Receipt, error) {
	return call[Receipt](ctx, n, http.MethodPost, peerPath(peer, "dm"), map[string]string{"text": text})
}

// DMLater sends a direct message. If it cannot be delivered now, it waits in the outbox of the nara: for
// expires, in whole seconds, or for 7 days if that is 0.
func (n *Nara) DMLater(ctx context.Context, peer, text string, expires time.Duration) (*Sent, error) {
	receipt, waits, err := later[Receipt](ctx, n, peerPath(peer, "dm"), map[string]any{"text": text}, expires)
	if err != nil {
		return nil, err
	}
	return &Sent{Receipt: receipt, Waits: waits}, nil
}

// PostcardReceipt is the receipt of a postcard.
type PostcardReceipt struct {
	MessageID string `json:"message_id"`
	// First is the peer that accepted it.
	First string `json:"first"`
	// PassedOn says whether that peer forwarded the postcard; Told why not.
	PassedOn bool    `json:"passed_on"`
	Told     *string `json:"told"`
}

// Postcard sends a postcard to its first peer or, if that is empty, to the first known one that answers.
func (n *Nara) Postcard(ctx context.Context, first, text string) (*PostcardReceipt, error) {
	body := map[string]string{"message": text}
	if first != "" {
		body["to"] = first
	}
	return call[PostcardReceipt](ctx, n, http.MethodPost, "/v1/postcards", body)
}

// PostcardLater sends a postcard to its first peer and may wait, as DMLater. Exactly one of the results is
// set.
func (n *Nara) PostcardLater(ctx context.Context, first, text string, expires time.Duration) (*PostcardReceipt, *OutboxEntry, error) {
	return later[PostcardReceipt](ctx, n, "/v1/postcards", map[string]any{"message": text, "to": first}, expires)
}

// MessageReceipt is the receipt of a runtime message.
type MessageReceipt struct {
	MessageID string `json:"message_id"`
	// Reply is the verified reply, if it was waited for.
	Reply json.RawMessage `json:"reply"`
}

// Message sends a runtime message, and with wait waits up to 30 s for its reply.
func (n *Nara) Message(ctx context.Context, peer, kind string, payload any, wait bool) (*MessageReceipt, error) {
	body := map[string]any{"kind": kind, "payload": payload, "wait": wait}
	return call[MessageReceipt](ctx, n, http.MethodPost, peerPath(peer, "messages"), body)
}

// MessageLater sends a runtime message and may wait, as DMLater. Exactly one of the results is set; a reply
// arrives in the inbox.
func (n *Nara) MessageLater(ctx context.Context, peer, kind string, payload any, expires time.Duration) (*MessageReceipt, *OutboxEntry, error) {
	body := map[string]any{"kind": kind, "payload": payload}
	return later[MessageReceipt](ctx, n, peerPath(peer, "messages"), body, expires)
}

func later[T any](ctx context.Context, n *Nara, path string, body map[string]any, expires time.Duration) (*T, *OutboxEntry, error) {
	limit := map[string]int64{}
	if expires != 0 {
		limit["expires_s"] = int64(expires / time.Second)
	}
	body["later"] = limit
	response, err := n.open(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusAccepted {
		waits := new(OutboxEntry)
		return nil, waits, json.NewDecoder(response.Body).Decode(waits)
	}
	receipt := new(T)
	return receipt, nil, json.NewDecoder(response.Body).Decode(receipt)
}

// Outbox returns the messages that wait for their recipients, and the outcome of recent ones, oldest first.
func (n *Nara) Outbox(ctx context.Context) ([]OutboxEntry, error) {
	list, err := call[struct{ Messages []OutboxEntry }](ctx, n, http.MethodGet, "/v1/outbox", nil)
	if err != nil {
		return nil, err
	}
	return list.Messages, nil
}

// TakeBack withdraws a message from the outbox, and returns its last state.
func (n *Nara) TakeBack(ctx context.Context, id uint64) (*OutboxEntry, error) {
	return call[OutboxEntry](ctx, n, http.MethodDelete, fmt.Sprintf("/v1/outbox/%d", id), nil)
}

// Call calls any endpoint of the API. The body and the answer are JSON; each may be nil.
func (n *Nara) Call(ctx context.Context, method, path string, body, answer any) error {
	response, err := n.open(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if answer == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(answer)
}

// Inbox yields messages of peers as they arrive, beginning with unacknowledged ones, until the context ends.
// A message is acknowledged when the loop continues; a message that the loop fails to handle is yielded
// again.
func (n *Nara) Inbox(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for message, err := range told[Message](ctx, n, http.MethodGet, "/v1/inbox/live", "message") {
			if !yield(message, err) || err != nil {
				return
			}
			done := map[string]string{"through": message.Cursor}
			if err := n.Call(ctx, http.MethodPost, "/v1/inbox/acknowledge", done, nil); err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// LiveEvent is an event as it arrived in the ledger.
type LiveEvent struct {
	// Cursor is the position after it.
	Cursor string `json:"cursor"`
	// Trust is "verified", "unknown-key" or "unsigned".
	Trust string `json:"trust"`
	// Origin is the peer that it was received from, if any.
	Origin *string         `json:"origin"`
	Event  json.RawMessage `json:"event"`
}

// Live yields events as they arrive in the ledger, until the context ends: those after a cursor, or from now
// on if that is empty.
func (n *Nara) Live(ctx context.Context, after string) iter.Seq2[*LiveEvent, error] {
	path := "/v1/events/live"
	if after != "" {
		path += "?after=" + url.QueryEscape(after)
	}
	return told[LiveEvent](ctx, n, http.MethodGet, path, "event")
}

// Publish signs an event of this nara, stores it, and returns the signed event.
func (n *Nara) Publish(ctx context.Context, event any) (json.RawMessage, error) {
	signed, err := call[json.RawMessage](ctx, n, http.MethodPost, "/v1/events", event)
	if err != nil {
		return nil, err
	}
	return *signed, nil
}

// Counts is the number of events of a transfer, by result.
type Counts struct {
	Received   int `json:"received"`
	Verified   int `json:"verified"`
	Stored     int `json:"stored"`
	Duplicates int `json:"duplicates"`
	Refused    int `json:"refused_count"`
}

// Synced is a finished sync.
type Synced struct {
	Counts Counts `json:"counts"`
	// Problem says why it broke off. Events received before are stored.
	Problem *Problem `json:"problem"`
}

// Reconciled is a finished comparison.
type Reconciled struct {
	Counts       Counts `json:"counts"`
	MissingHere  int    `json:"missing_here"`
	MissingThere int    `json:"missing_there"`
	Pushed       int    `json:"pushed"`
	Complete     bool   `json:"complete"`
}

// Sync fetches and verifies the events of a peer into the ledger. The end of the context cancels it.
func (n *Nara) Sync(ctx context.Context, peer string) (*Synced, error) {
	synced, err := transfer[Synced](ctx, n, peerPath(peer, "sync"))
	if err == nil && synced.Problem != nil {
		return synced, synced.Problem
	}
	return synced, err
}

// Reconcile compares the ledger with that of a peer, fetches events missing here, and with push sends events
// missing there.
func (n *Nara) Reconcile(ctx context.Context, peer string, push bool) (*Reconciled, error) {
	return transfer[Reconciled](ctx, n, peerPath(peer, fmt.Sprintf("reconcile?push=%t", push)))
}

// Transfer is a transfer in progress.
type Transfer struct {
	ID uint64 `json:"id"`
	// Kind is "sync", "reconcile", "compare" or "checkpoints".
	Kind string `json:"kind"`
	Peer string `json:"peer"`
}

// Transfers returns the transfers in progress, of all callers.
func (n *Nara) Transfers(ctx context.Context) ([]Transfer, error) {
	list, err := call[struct{ Transfers []Transfer }](ctx, n, http.MethodGet, "/v1/transfers", nil)
	if err != nil {
		return nil, err
	}
	return list.Transfers, nil
}

// Cancel cancels a transfer. Events received before are stored.
func (n *Nara) Cancel(ctx context.Context, id uint64) error {
	return n.Call(ctx, http.MethodDelete, fmt.Sprintf("/v1/transfers/%d", id), nil, nil)
}

// transfer waits for the end of a transfer.
func transfer[T any](ctx context.Context, n *Nara, path string) (*T, error) {
	for done, err := range told[T](ctx, n, http.MethodPost, path, "done") {
		return done, err
	}
	return nil, errors.New("the nara stopped before the transfer was complete")
}

// told yields the server-sent events of this name until the answer ends. A problem is the last one.
func told[T any](ctx context.Context, n *Nara, method, path, wanted string) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		response, err := n.open(ctx, method, path, nil)
		if err != nil {
			yield(nil, err)
			return
		}
		defer response.Body.Close()
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, maxEvent)
		name := ""
		for lines.Scan() {
			if event, isName := strings.CutPrefix(lines.Text(), "event: "); isName {
				name = event
			}
			data, isData := strings.CutPrefix(lines.Text(), "data: ")
			if !isData {
				continue
			}
			switch name {
			case "problem":
				found := new(Problem)
				if err := json.Unmarshal([]byte(data), found); err != nil {
					yield(nil, err)
				} else {
					yield(nil, found)
				}
				return
			case wanted:
				event := new(T)
				if err := json.Unmarshal([]byte(data), event); err != nil {
					yield(nil, err)
					return
				}
				if !yield(event, nil) {
					return
				}
			}
		}
		if err := lines.Err(); err != nil {
			yield(nil, err)
		}
	}
}

// lease is how long the nara forwards requests to a program that does not renew its lease.
const lease = 30 * time.Second

// Serve makes the nara forward verified requests of peers below a prefix, such as /notes, to a handler, until
// the context ends. The handler sees paths without the prefix, and [SenderOf] returns the sender of a
// request.
func (n *Nara) Serve(ctx context.Context, prefix string, handler http.Handler) error {
	folder, err := os.MkdirTemp("", "nara-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	socket := filepath.Join(folder, "app.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: lease}
	defer server.Close()
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	path := "/v1/services/" + segment(strings.TrimPrefix(prefix, "/"))
	body := map[string]any{"backend": "unix:" + socket, "lease_s": int(lease / time.Second)}
	if err := n.Call(ctx, http.MethodPut, path, body, nil); err != nil {
		return err
	}
	// The lease ends with us, also if the context has ended.
	defer func() { _ = n.Call(context.WithoutCancel(ctx), http.MethodDelete, path, nil, nil) }()
	renewing := time.NewTicker(lease / 3)
	defer renewing.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case <-renewing.C:
			// Errors are ignored: a nara that restarts is asked again.
			_ = n.Call(ctx, http.MethodPut, path, body, nil)
		}
	}
}

// Sender is the sender of a request, verified by the nara.
type Sender struct {
	Name string
	// ID is empty if unknown.
	ID  string
	Key string
	// Coverage says what the signature proves about the request: "method-and-path", "head", "whole" or
	// "channel".
	Coverage string
}

// SenderOf returns the sender of a request that a nara forwarded: only the nara can reach the socket of
// [Nara.Serve].
func SenderOf(request *http.Request) Sender {
	header := request.Header
	name, err := url.PathUnescape(header.Get("X-Nara-Sender"))
	if err != nil {
		name = header.Get("X-Nara-Sender")
	}
	return Sender{
		Name:     name,
		ID:       header.Get("X-Nara-Sender-Id"),
		Key:      header.Get("X-Nara-Sender-Key"),
		Coverage: header.Get("X-Nara-Coverage"),
	}
}

// RoundTrip sends a signed request to a peer, whose name is the host of the URL: http://bob/notes/1. The
// answer is verified, and its X-Nara headers say what is proven. So an [http.Client] with a Nara as its
// Transport can call naras.
func (n *Nara) RoundTrip(request *http.Request) (*http.Response, error) {
	local := request.Clone(request.Context())
	target := peerPath(request.URL.Host, "http"+request.URL.EscapedPath())
	if request.URL.RawQuery != "" {
		target += "?" + request.URL.RawQuery
	}
	address, err := url.Parse("http://nara" + target)
	if err != nil {
		return nil, err
	}
	local.URL, local.Host, local.RequestURI = address, "nara", ""
	response, err := n.client.Transport.RoundTrip(local)
	if err != nil {
		return nil, err
	}
	if response.Header.Get("X-Nara-Body-Proof") == "" {
		defer response.Body.Close()
		return nil, problem(response)
	}
	return response, nil
}

func call[T any](ctx context.Context, n *Nara, method, path string, body any) (*T, error) {
	answer := new(T)
	if err := n.Call(ctx, method, path, body, answer); err != nil {
		return nil, err
	}
	return answer, nil
}

func (n *Nara) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://nara"+path, content)
	if err != nil {
		return nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := n.client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		return nil, problem(response)
	}
	return response, nil
}

// problem decodes the problem of an answer.
func problem(response *http.Response) error {
	found := new(Problem)
	if err := json.NewDecoder(io.LimitReader(response.Body, maxEvent)).Decode(found); err != nil || found.Type == "" {
		return fmt.Errorf("status %d without a problem", response.StatusCode)
	}
	return found
}

func peerPath(peer, rest string) string {
	return "/v1/peers/" + segment(peer) + "/" + rest
}

// segment escapes a text as one segment of a path, and a name in the file name of a socket, as nara-mesh
// does.
func segment(text string) string {
	var out strings.Builder
	for _, byte := range []byte(text) {
		switch {
		case 'a' <= byte && byte <= 'z', 'A' <= byte && byte <= 'Z', '0' <= byte && byte <= '9', strings.IndexByte("-_~", byte) >= 0:
			out.WriteByte(byte)
		default:
			fmt.Fprintf(&out, "%%%02X", byte)
		}
	}
	return out.String()
}
