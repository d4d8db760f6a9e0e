package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strconv"
)

// Service names, the values of [Event.Service].
const (
	svcSocial      = "social"
	svcPing        = "ping"
	svcObservation = "observation"
	svcHeyThere    = "hey-there"
	svcChau        = "chau"
	svcSeen        = "seen"
	svcCheckpoint  = "checkpoint"
)

// Event is the envelope of a mesh event. The payload matching Service is set,
// the others are nil.
type Event struct {
	ID        string `json:"id"`
	Timestamp int64  `json:"ts"` // Unix nanoseconds
	Service   string `json:"svc"`
	Emitter   string `json:"emitter,omitempty"`
	EmitterID string `json:"emitter_id,omitempty"`
	Signature string `json:"sig,omitempty"`

	Social      *Social           `json:"social,omitempty"`
	Ping        *Ping             `json:"ping,omitempty"`
	Observation *ObservationEvent `json:"observation,omitempty"`
	HeyThere    *HeyThere         `json:"hey_there,omitempty"`
	Chau        *Chau             `json:"chau,omitempty"`
	Seen        *Seen             `json:"seen,omitempty"`
	Checkpoint  *Checkpoint       `json:"checkpoint,omitempty"`
}

// Social is the payload of a "social" event.
type Social struct {
	Type     string `json:"type"`
	Actor    string `json:"actor,omitempty"`
	ActorID  string `json:"actor_id,omitempty"`
	Target   string `json:"target,omitempty"`
	TargetID string `json:"target_id,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Witness  string `json:"witness,omitempty"`
}

// Ping is the payload of a "ping" event.
type Ping struct {
	Observer   string  `json:"observer,omitempty"`
	ObserverID string  `json:"observer_id,omitempty"`
	Target     string  `json:"target,omitempty"`
	TargetID   string  `json:"target_id,omitempty"`
	RTT        float64 `json:"rtt"` // milliseconds
}

// ObservationEvent is the payload of an "observation" event. Its times are in
// seconds, unlike the envelope's.
type ObservationEvent struct {
	Observer       string `json:"observer,omitempty"`
	ObserverID     string `json:"observer_id,omitempty"`
	Subject        string `json:"subject,omitempty"`
	SubjectID      string `json:"subject_id,omitempty"`
	Type           string `json:"type"`
	Importance     int    `json:"importance"`
	IsBackfill     bool   `json:"is_backfill,omitempty"`
	StartTime      int64  `json:"start_time,omitempty"`
	RestartNum     int64  `json:"restart_num,omitempty"`
	LastRestart    int64  `json:"last_restart,omitempty"`
	OnlineState    string `json:"online_state,omitempty"`
	ClusterName    string `json:"cluster_name,omitempty"`
	ObserverUptime uint64 `json:"observer_uptime,omitempty"`
}

// HeyThere is the payload of a "hey-there" event. Its keys are capitalised on
// the wire and never omitted.
type HeyThere struct {
	From      string `json:"From"`
	PublicKey string `json:"PublicKey"`
	MeshIP    string `json:"MeshIP"`
	ID        string `json:"ID"`
	Signature string `json:"Signature"`
}

// Chau is the payload of a "chau" event. Its keys are capitalised on the wire
// and never omitted.
type Chau struct {
	From      string `json:"From"`
	PublicKey string `json:"PublicKey"`
	ID        string `json:"ID"`
	Signature string `json:"Signature"`
}

// Seen is the payload of a "seen" event.
type Seen struct {
	Observer   string `json:"observer,omitempty"`
	ObserverID string `json:"observer_id,omitempty"`
	Subject    string `json:"subject,omitempty"`
	SubjectID  string `json:"subject_id,omitempty"`
	Via        string `json:"via"`
}

// Checkpoint is the payload of a "checkpoint" event.
type Checkpoint struct {
	Version              int             `json:"version"`
	Subject              string          `json:"subject"`
	SubjectID            string          `json:"subject_id"`
	PreviousCheckpointID string          `json:"previous_checkpoint_id,omitempty"`
	Observation          NaraObservation `json:"observation"`
	AsOfTime             int64           `json:"as_of_time"`
	Round                int             `json:"round"`
	VoterIDs             []string        `json:"voter_ids,omitempty"`
	Signatures           []string        `json:"signatures,omitempty"`
}

// NaraObservation is the state of a nara inside a [Checkpoint].
type NaraObservation struct {
	Restarts     int64   `json:"restarts,omitempty"`
	TotalUptime  int64   `json:"total_uptime,omitempty"`
	StartTime    int64   `json:"start_time,omitempty"`
	Online       string  `json:"online,omitempty"`
	LastSeen     int64   `json:"last_seen,omitempty"`
	LastRestart  int64   `json:"last_restart,omitempty"`
	ClusterName  string  `json:"cluster_name,omitempty"`
	ClusterEmoji string  `json:"cluster_emoji,omitempty"`
	LastPingRTT  float64 `json:"last_ping_rtt,omitempty"`
	AvgPingRTT   float64 `json:"avg_ping_rtt,omitempty"`
	LastPingTime int64   `json:"last_ping_time,omitempty"`
}

// appendJoined appends parts to b with colons between them.
func appendJoined(b []byte, parts ...string) []byte {
	for i, p := range parts {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, p...)
	}
	return b
}

// appendInts appends each of ns to b in decimal, each preceded by a colon.
func appendInts(b []byte, ns ...int64) []byte {
	for _, n := range ns {
		b = append(b, ':')
		b = strconv.AppendInt(b, n, 10)
	}
	return b
}

// appendContent appends the content text of e to b. It reports false when the
// service is known but its payload is missing; an unknown service has empty
// content.
func (e *Event) appendContent(b []byte) ([]byte, bool) {
	switch e.Service {
	case svcSocial:
		p := e.Social
		if p == nil {
			return b, false
		}
		return appendJoined(b, p.Type, p.Actor, p.Target, p.Reason, p.Witness), true

	case svcPing:
		p := e.Ping
		if p == nil {
			return b, false
		}
		b = append(appendJoined(b, p.Observer, p.Target), ':')
		return strconv.AppendFloat(b, p.RTT, 'f', 1, 64), true

	case svcObservation:
		p := e.Observation
		if p == nil {
			return b, false
		}
		if p.Type == "restart" {
			b = appendJoined(b, p.Subject, p.Type)
			return appendInts(b, p.RestartNum, p.StartTime), true
		}
		b = appendJoined(b, p.Observer, p.Subject, p.Type, p.OnlineState)
		return appendInts(b, p.StartTime, p.RestartNum), true

	case svcHeyThere:
		p := e.HeyThere
		if p == nil {
			return b, false
		}
		return appendJoined(b, "hey_there", p.From, p.PublicKey, p.MeshIP), true

	case svcChau:
		p := e.Chau
		if p == nil {
			return b, false
		}
		return appendJoined(b, "chau", p.From, p.PublicKey), true

	case svcSeen:
		p := e.Seen
		if p == nil {
			return b, false
		}
		return appendJoined(b, "seen", p.Observer, p.Subject, p.Via), true

	case svcCheckpoint:
		p := e.Checkpoint
		if p == nil {
			return b, false
		}
		who := p.SubjectID
		if who == "" {
			who = p.Subject
		}
		o := &p.Observation
		if p.Version < 2 {
			b = appendJoined(b, "checkpoint", who)
			return appendInts(b, p.AsOfTime, o.StartTime, o.Restarts, o.TotalUptime), true
		}
		b = appendJoined(b, "checkpoint", "v2", who)
		b = appendInts(b, p.AsOfTime, o.StartTime, o.Restarts, o.TotalUptime)
		b = append(b, ':')
		return append(b, p.PreviousCheckpointID...), true
	}
	return b, true
}

// hasher computes event ids and signing digests, reusing its buffers. The zero
// value is ready to use; it is not safe for concurrent use.
type hasher struct {
	content, text []byte
}

// load prepares h for e. It reports false when e lacks its payload.
func (h *hasher) load(e *Event) bool {
	var ok bool
	h.content, ok = e.appendContent(h.content[:0])
	return ok
}

// id returns the id of e, the event last loaded.
func (h *hasher) id(e *Event) [32]byte {
	b := strconv.AppendInt(h.text[:0], e.Timestamp, 10)
	b = append(b, ':')
	b = append(b, e.Service...)
	b = append(b, ':')
	b = append(b, h.content...)
	h.text = b

	sum := sha256.Sum256(b)
	var id [32]byte
	hex.Encode(id[:], sum[:16])
	return id
}

// digest returns the digest signed by the emitter of e, the event last loaded.
func (h *hasher) digest(e *Event) [sha256.Size]byte {
	b := append(h.text[:0], e.ID...)
	b = appendInts(b, e.Timestamp)
	b = append(b, ':')
	b = appendJoined(b, e.Service, e.Emitter)
	b = append(b, ':')
	b = append(b, h.content...)
	h.text = b
	return sha256.Sum256(b)
}

// sign fills in the id, emitter and signature of e.
func (h *hasher) sign(e *Event, by *signer) {
	e.Emitter = by.name
	if !h.load(e) {
		panic("signing an event without payload")
	}
	id := h.id(e)
	e.ID = string(id[:])
	digest := h.digest(e)
	e.Signature = by.sign(digest[:])
}

// verify reports whether the id of e is the one its content demands and its
// signature is by the key known for its emitter.
func (h *hasher) verify(e *Event, keys keyring) bool {
	key, ok := keys[e.Emitter]
	if !ok || !h.load(e) {
		return false
	}
	if id := h.id(e); string(id[:]) != e.ID {
		return false
	}
	digest := h.digest(e)
	return verifyBase64(key, digest[:], e.Signature)
}

// SyncRequest is the body of POST /events/sync.
type SyncRequest struct {
	From       string   `json:"from"`
	Services   []string `json:"services"`
	Subjects   []string `json:"subjects"`
	Mode       string   `json:"mode,omitempty"`
	SampleSize int      `json:"sample_size,omitempty"`
	Cursor     string   `json:"cursor,omitempty"`
	PageSize   int      `json:"page_size,omitempty"`
	Limit      int      `json:"limit,omitempty"`
	SinceTime  int64    `json:"since_time,omitempty"`
	SliceIndex int      `json:"slice_index,omitempty"`
	SliceTotal int      `json:"slice_total,omitempty"`
	MaxEvents  int      `json:"max_events,omitempty"`
}

// SyncResponse is the answer to a [SyncRequest].
type SyncResponse struct {
	From       string  `json:"from"`
	Events     []Event `json:"events"`
	NextCursor string  `json:"next_cursor,omitempty"`
	Timestamp  int64   `json:"ts,omitempty"` // Unix seconds
	Signature  string  `json:"sig,omitempty"`
}

// digest returns the digest of r that its sender signs: sender, time and the
// event ids in order.
func (r *SyncResponse) digest() [sha256.Size]byte {
	b := append([]byte(r.From), ':')
	b = strconv.AppendInt(b, r.Timestamp, 10)
	b = append(b, ':')
	for i := range r.Events {
		b = append(b, r.Events[i].ID...)
	}
	return sha256.Sum256(b)
}

// sign sets the signature of r.
func (r *SyncResponse) sign(by *signer) {
	digest := r.digest()
	r.Signature = by.sign(digest[:])
}

// verify reports whether the signature of r is by the key known for its sender.
func (r *SyncResponse) verify(keys keyring) bool {
	key, ok := keys[r.From]
	if !ok {
		return false
	}
	digest := r.digest()
	return verifyBase64(key, digest[:], r.Signature)
}

// verifyBase64 reports whether the base64 text sig is a signature of msg by key.
func verifyBase64(key ed25519.PublicKey, msg []byte, sig string) bool {
	raw, err := base64.StdEncoding.DecodeString(sig)
	return err == nil && ed25519.Verify(key, msg, raw)
}
