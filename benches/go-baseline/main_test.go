package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func testSigner(name string) *signer {
	return newSigner(name, sha256.Sum256([]byte(name)))
}

func TestRequestSignature(t *testing.T) {
	alice := testSigner("alice")
	keys := keyring{}
	keys.add(alice)

	signed := func() *http.Request {
		r := httptest.NewRequest(http.MethodPost, "http://x/caf%C3%A9?q=1", nil)
		alice.signRequest(r)
		return r
	}
	if err := keys.verifyRequest(signed()); err != nil {
		t.Fatalf("good request refused: %v", err)
	}

	tests := []struct {
		name   string
		change func(*http.Request)
		want   string
	}{
		{"no name", func(r *http.Request) { r.Header.Del(headerName) }, "missing auth headers"},
		{"bad time", func(r *http.Request) { r.Header.Set(headerTimestamp, "1.5") }, "invalid timestamp"},
		{"stale", func(r *http.Request) {
			alice.setHeaders(r.Header, time.Now().Add(-31*time.Second), r.Method+r.URL.Path)
		}, "timestamp too old"},
		{"far future", func(r *http.Request) {
			r.Header.Set(headerTimestamp, strconv.FormatInt(1<<63-1, 10))
		}, "timestamp too old"},
		{"unknown", func(r *http.Request) { r.Header.Set(headerName, "mallory") }, "unknown sender: mallory"},
		{"not base64", func(r *http.Request) { r.Header.Set(headerSignature, "***") }, "invalid signature encoding"},
		{"short", func(r *http.Request) { r.Header.Set(headerSignature, "AAAA") }, "signature verification failed"},
		{"other path", func(r *http.Request) { r.URL.Path = "/dm" }, "signature verification failed"},
		{"other method", func(r *http.Request) { r.Method = http.MethodGet }, "signature verification failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := signed()
			tt.change(r)
			err := keys.verifyRequest(r)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("got error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestResponseSignature(t *testing.T) {
	bob := testSigner("bob")
	keys := keyring{}
	keys.add(bob)

	h := http.Header{}
	body := []byte("{}\n")
	bob.signResponse(h, body)
	if err := keys.verifyResponse(h, body); err != nil {
		t.Errorf("good response refused: %v", err)
	}
	if err := keys.verifyResponse(h, []byte("{}")); err == nil {
		t.Error("changed body accepted")
	}
}

func TestEmptyBodyHash(t *testing.T) {
	if got, want := bodyHash(nil), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="; got != want {
		t.Errorf("bodyHash(nil) = %s, want %s", got, want)
	}
}

func TestUnauthenticatedRequest(t *testing.T) {
	bob := testSigner("bob")
	w := httptest.NewRecorder()
	syncServer(bob, keyring{}, signedOptions{}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, syncPath, nil))
	if w.Code != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", w.Code)
	}
	if got, want := w.Body.String(), "Authentication failed: missing auth headers\n"; got != want {
		t.Errorf("body %q, want %q", got, want)
	}
	if w.Header().Get(headerSignature) != "" {
		t.Error("refusal is signed")
	}
}

func TestRunSigned(t *testing.T) {
	for _, opt := range []signedOptions{
		{},
		{inner: true},
		{unsigned: true},
	} {
		opt.requests, opt.inFlight, opt.warmup = 50, 4, 5
		res, err := runSigned(opt)
		if err != nil {
			t.Errorf("%+v: %v", opt, err)
			continue
		}
		if res.RPS <= 0 || res.P50us <= 0 || res.P99us < res.P50us {
			t.Errorf("%+v: implausible result %+v", opt, res)
		}
	}
}

func TestContent(t *testing.T) {
	tests := []struct {
		event Event
		want  string
	}{
		{Event{Service: svcSocial, Social: &Social{Type: "tease", Actor: "a", Target: "b"}}, "tease:a:b::"},
		{Event{Service: svcPing, Ping: &Ping{Observer: "a", Target: "b", RTT: 0.25}}, "a:b:0.2"},
		{Event{Service: svcObservation, Observation: &ObservationEvent{
			Observer: "a", Subject: "b", Type: "restart", StartTime: 7, RestartNum: 3,
		}}, "b:restart:3:7"},
		{Event{Service: svcObservation, Observation: &ObservationEvent{
			Observer: "a", Subject: "b", Type: "status-change", OnlineState: "ONLINE",
		}}, "a:b:status-change:ONLINE:0:0"},
		{Event{Service: svcHeyThere, HeyThere: &HeyThere{From: "a", PublicKey: "k", MeshIP: "i", ID: "x"}}, "hey_there:a:k:i"},
		{Event{Service: svcChau, Chau: &Chau{From: "a", PublicKey: "k", ID: "x"}}, "chau:a:k"},
		{Event{Service: svcSeen, Seen: &Seen{Observer: "a", Subject: "b", Via: "zine"}}, "seen:a:b:zine"},
		{Event{Service: svcCheckpoint, Checkpoint: &Checkpoint{
			Version: 1, Subject: "b", AsOfTime: 1, Observation: NaraObservation{StartTime: 2, Restarts: 3, TotalUptime: 4},
		}}, "checkpoint:b:1:2:3:4"},
		{Event{Service: svcCheckpoint, Checkpoint: &Checkpoint{
			Version: 2, Subject: "b", SubjectID: "id", PreviousCheckpointID: "p",
		}}, "checkpoint:v2:id:0:0:0:0:p"},
		{Event{Service: "other"}, ""},
	}
	for _, tt := range tests {
		got, ok := tt.event.appendContent(nil)
		if !ok || string(got) != tt.want {
			t.Errorf("%s: content %q, %v; want %q", tt.event.Service, got, ok, tt.want)
		}
	}
	if _, ok := (&Event{Service: svcPing}).appendContent(nil); ok {
		t.Error("missing payload accepted")
	}
}

func TestPageVerifies(t *testing.T) {
	const events, emitters = 300, 7
	resp, keys := makePage(events, emitters)
	page, _, err := encodePage(resp, keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkPage(page, keys, events, emitters); err != nil {
		t.Error(err)
	}
	for _, cores := range []int{1, 3} {
		res, err := runSync(page, keys, 2, cores)
		if err != nil {
			t.Fatal(err)
		}
		if res.Verified != 2*events || res.Bad != 0 {
			t.Errorf("%d cores: %d verified, %d bad", cores, res.Verified, res.Bad)
		}
	}

	again, _ := makePage(events, emitters)
	page2, _, err := encodePage(again, keys)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, page2) {
		t.Error("page is not deterministic")
	}
}

func TestChangedEventIsBad(t *testing.T) {
	changes := map[string]func(*Event){
		"timestamp": func(e *Event) { e.Timestamp++ },
		"id":        func(e *Event) { e.ID = strings.Repeat("0", 32) },
		"emitter":   func(e *Event) { e.Emitter = "nobody" },
		"signature": func(e *Event) { e.Signature = "" },
		"service":   func(e *Event) { e.Service = svcChau },
	}
	for name, change := range changes {
		resp, keys := makePage(10, 2)
		change(&resp.Events[4])
		if good := verifyEvents(resp.Events, keys, 1); good != 9 {
			t.Errorf("changed %s: %d of 10 verify, want 9", name, good)
		}
	}

	resp, keys := makePage(10, 2)
	resp.Events[4].ID = strings.Repeat("0", 32)
	if resp.verify(keys) {
		t.Error("page signature does not cover ids")
	}
}

func TestCommands(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.json")
	commands := [][]string{
		{"make-page", "--events", "40", "--emitters", "4", "--out", page},
		{"sync", "--events", "40", "--emitters", "4", "--rounds", "2", "--page", page},
		{"sync", "--rounds", "1", "--cores", "all", "--page", page},
		{"signed", "--requests", "20", "--in-flight", "2", "--warmup", "2"},
	}
	for _, args := range commands {
		var out bytes.Buffer
		if err := run(args, &out); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		var res map[string]any
		if err := json.Unmarshal(out.Bytes(), &res); err != nil {
			t.Errorf("%v: output %q: %v", args, out.String(), err)
		}
	}
	if err := run([]string{"sync", "--events", "41", "--page", page}, &bytes.Buffer{}); err == nil {
		t.Error("wrong number of events accepted")
	}
}

func TestPercentile(t *testing.T) {
	sorted := make([]time.Duration, 200)
	for i := range sorted {
		sorted[i] = time.Duration(i + 1)
	}
	if got := percentile(sorted, 50); got != 100 {
		t.Errorf("p50 = %d, want 100", got)
	}
	if got := percentile(sorted, 99); got != 198 {
		t.Errorf("p99 = %d, want 198", got)
	}
	if got := percentile(sorted[:1], 99); got != 1 {
		t.Errorf("p99 of one = %d, want 1", got)
	}
}
