package naramesh

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program returns the nara-mesh to test: NARA_MESH_PROGRAM, or the one that cargo built.
func program(t *testing.T) string {
	t.Helper()
	if given := os.Getenv("NARA_MESH_PROGRAM"); given != "" {
		return given
	}
	built, err := filepath.Abs("../../target/debug/nara-mesh")
	if err != nil {
		t.Fatal(err)
	}
	return built
}

func newSoul(t *testing.T, folder, name string) (made struct {
	PublicKey string `json:"public_key"`
}) {
	t.Helper()
	command := exec.Command(program(t), "id", "new", "--json", "--name", name, "--out", name+".soul")
	command.Dir = folder
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(output, &made); err != nil {
		t.Fatal(err)
	}
	return made
}

// serve runs a nara until the test ends, and returns the stanza for the peers file of its peers.
func serve(t *testing.T, folder, name string) string {
	t.Helper()
	command := exec.Command(program(t), "serve", "--json", "--listen", "127.0.0.1:0", "--peers", "known.toml",
		"--soul-file", name+".soul", "--data-dir", name)
	command.Dir = folder
	command.Env = []string{"XDG_RUNTIME_DIR=" + filepath.Join(folder, "run-"+name)}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
	})
	var listening struct{ Stanza string }
	lines := json.NewDecoder(stdout)
	if err := lines.Decode(&listening); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	return listening.Stanza
}

// mesh starts alice, and bob, who knows her address.
func mesh(t *testing.T) (folder string, alice, bob *Nara) {
	t.Helper()
	folder = t.TempDir()
	newSoul(t, folder, "alice")
	key := newSoul(t, folder, "bob").PublicKey
	known := filepath.Join(folder, "known.toml")
	write := func(text string) {
		if err := os.WriteFile(known, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[[peer]]\nname = \"bob\"\nkey = \"" + key + "\"\n")
	stanza := serve(t, folder, "alice")
	write(stanza)
	serve(t, folder, "bob")
	return folder, Open(filepath.Join(folder, "alice/nara.sock")), Open(filepath.Join(folder, "bob/nara.sock"))
}

func TestARunningNaraIsFoundAndUsed(t *testing.T) {
	folder, _, _ := mesh(t)
	t.Setenv("NARA_MESH_SOCKET", "")
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(folder, "run-bob"))
	bob, err := Find("")
	if err != nil {
		t.Fatal(err)
	}
	status, err := bob.Status(t.Context())
	if err != nil || status.Name != "bob" || status.Peers != 1 {
		t.Fatal(status, err)
	}
	t.Setenv("NARA_MESH_SOCKET", filepath.Join(folder, "alice/nara.sock"))
	if _, err := Find("carol"); !errors.Is(err, ErrNoNara) {
		t.Fatal(err)
	}
	if bob, err = Find("bob"); err != nil {
		t.Fatal(err)
	}
	peers, err := bob.Peers(t.Context())
	if err != nil || len(peers) != 1 || peers[0].Label != "alice" {
		t.Fatal(peers, err)
	}
	pong, err := bob.Ping(t.Context(), "alice")
	if err != nil || pong.KeyMatches == nil || !*pong.KeyMatches {
		t.Fatal(pong, err)
	}
	var refused *Problem
	if _, err := bob.Ping(t.Context(), "nobody"); !errors.As(err, &refused) || refused.Name() != "unknown_peer" {
		t.Fatal(err)
	}
}

func TestAMessageStaysInTheInboxUntilItIsHandled(t *testing.T) {
	_, alice, bob := mesh(t)
	for _, text := range []string{"first", "second"} {
		if receipt, err := bob.DM(t.Context(), "alice", text); err != nil || !receipt.Stored {
			t.Fatal(receipt, err)
		}
	}
	next := func(wanted int) (texts []string) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for message, err := range alice.Inbox(ctx) {
			if err != nil {
				t.Fatal(err)
			}
			var event struct{ Social struct{ Reason string } }
			if err := json.Unmarshal(message.Event, &event); err != nil || message.From != "bob" {
				t.Fatal(message, err)
			}
			texts = append(texts, event.Social.Reason)
			if len(texts) == wanted {
				break
			}
		}
		return texts
	}
	if texts := strings.Join(next(2), " "); texts != "first second" {
		t.Fatal(texts)
	}
	// The loop ended before the second one was acknowledged.
	if texts := strings.Join(next(1), " "); texts != "second" {
		t.Fatal(texts)
	}
}

func TestAMessageWaitsInTheOutboxUntilItIsTakenBack(t *testing.T) {
	folder, _, bob := mesh(t)
	sent, err := bob.DMLater(t.Context(), "alice", "at once", 0)
	if err != nil || sent.Waits != nil || sent.Receipt == nil || !sent.Receipt.Stored {
		t.Fatal(sent, err)
	}
	// Carol is known, but her address is not.
	trust := map[string]string{"key": newSoul(t, folder, "carol").PublicKey}
	if err := bob.Call(t.Context(), http.MethodPut, "/v1/peers/carol/trust", trust, nil); err != nil {
		t.Fatal(err)
	}
	sent, err = bob.DMLater(t.Context(), "carol", "later", time.Minute)
	if err != nil || sent.Receipt != nil || sent.Waits == nil || sent.Waits.State != "waiting" || !sent.Waits.IsDurable {
		t.Fatal(sent, err)
	}
	listed, err := bob.Outbox(t.Context())
	if err != nil || len(listed) != 2 || listed[1].ID != sent.Waits.ID {
		t.Fatal(listed, err)
	}
	taken, err := bob.TakeBack(t.Context(), sent.Waits.ID)
	if err != nil || taken.EventID != sent.Waits.EventID {
		t.Fatal(taken, err)
	}
	var gone *Problem
	if _, err := bob.TakeBack(t.Context(), sent.Waits.ID); !errors.As(err, &gone) || gone.Name() != "unknown_message" {
		t.Fatal(err)
	}
}

func TestPostcardsAndRuntimeMessagesWaitInTheOutbox(t *testing.T) {
	folder, _, bob := mesh(t)
	trust := map[string]string{"key": newSoul(t, folder, "carol").PublicKey}
	if err := bob.Call(t.Context(), http.MethodPut, "/v1/peers/carol/trust", trust, nil); err != nil {
		t.Fatal(err)
	}
	postcard, waits, err := bob.PostcardLater(t.Context(), "carol", "hi", time.Minute)
	if err != nil || postcard != nil || waits == nil || waits.Kind != "postcard" {
		t.Fatal(postcard, waits, err)
	}
	status, err := bob.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	payload := map[string]any{"owner_id": status.ID, "stored_at": 1, "success": true}
	message, waits, err := bob.MessageLater(t.Context(), "carol", "stash:ack", payload, 0)
	if err != nil || message != nil || waits == nil || waits.Kind != "runtime-message" {
		t.Fatal(message, waits, err)
	}
	message, waits, err = bob.MessageLater(t.Context(), "alice", "stash:ack", payload, 0)
	if err != nil || waits != nil || message == nil || message.MessageID == "" {
		t.Fatal(message, waits, err)
	}
	if message, err = bob.Message(t.Context(), "alice", "stash:ack", payload, false); err != nil || message.MessageID == "" {
		t.Fatal(message, err)
	}
	var wrong *Problem
	if _, err := bob.Message(t.Context(), "alice", "stash-refresh", map[string]any{}, false); !errors.As(err, &wrong) || wrong.Field != "payload.owner_id" {
		t.Fatal(err)
	}
}

func TestEventsAreFetchedComparedAndFollowed(t *testing.T) {
	_, alice, bob := mesh(t)
	if receipt, err := bob.Postcard(t.Context(), "alice", "greetings"); err != nil || receipt.First != "alice" {
		t.Fatal(receipt, err)
	}
	said := map[string]any{"svc": "social", "social": map[string]string{
		"type": "gossip", "actor": "alice", "target": "bob", "reason": "from Go",
	}}
	published, err := alice.Publish(t.Context(), said)
	if err != nil || !strings.Contains(string(published), "from Go") {
		t.Fatal(string(published), err)
	}
	synced, err := bob.Sync(t.Context(), "alice")
	if err != nil || synced.Counts.Received == 0 {
		t.Fatal(synced, err)
	}
	compared, err := bob.Reconcile(t.Context(), "alice", true)
	if err != nil || !compared.Complete {
		t.Fatal(compared, err)
	}
	// Events from now on.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			_, _ = alice.Publish(ctx, said)
		}
	}()
	for event, err := range alice.Live(ctx, "") {
		if err != nil || event.Trust != "verified" || event.Cursor == "" {
			t.Fatal(event, err)
		}
		break
	}
}

func TestATransferIsListedAndCancelled(t *testing.T) {
	_, _, bob := mesh(t)
	// It accepts connections and never answers.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := bob.Sync(t.Context(), silent.Addr().String())
		ended <- err
	}()
	for {
		transfers, err := bob.Transfers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(transfers) == 1 {
			if err := bob.Cancel(t.Context(), transfers[0].ID); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	var cancelled *Problem
	if err := <-ended; !errors.As(err, &cancelled) || cancelled.Name() != "cancelled" {
		t.Fatal(err)
	}
}

func TestAHandlerIsAServiceUntilItsContextEnds(t *testing.T) {
	_, alice, bob := mesh(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- alice.Serve(ctx, "/notes", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, r.URL.Path+" for "+SenderOf(r).Name)
		}))
	}()
	client := &http.Client{Transport: bob}
	ask := func() (int, string) {
		answer, err := client.Get("http://alice/notes/1")
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(body)
	}
	for {
		if status, text := ask(); status == http.StatusOK {
			if text != "/1 for bob" {
				t.Fatal(text)
			}
			break
		}
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if status, text := ask(); status == http.StatusOK {
		t.Fatal(text)
	}
}

func TestAnHTTPClientTalksToNaras(t *testing.T) {
	_, alice, bob := mesh(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Header.Get("X-Nara-Sender")+" "+r.Method+" "+r.RequestURI+" "+string(body))
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	lease := map[string]any{"backend": "http://" + listener.Addr().String(), "lease_s": 60}
	if err := alice.Call(t.Context(), http.MethodPut, "/v1/services/notes", lease, nil); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: bob}
	answer, err := client.Post("http://alice/notes/a%20b?x=y", "text/plain", strings.NewReader("milk"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusTeapot || string(body) != "bob POST /a%20b?x=y milk" {
		t.Fatal(answer.Status, string(body), err)
	}
	if responder := answer.Header.Get("X-Nara-Responder"); responder != "alice" {
		t.Fatal(responder)
	}
	var refused *Problem
	if _, err := client.Get("http://nobody/notes"); !errors.As(err, &refused) || refused.Name() != "unknown_peer" {
		t.Fatal(err)
	}
}
