package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
)

// pageEpoch is the time of the oldest event of a generated page, in Unix seconds.
const pageEpoch = 1_770_000_000

// makePageResult is what the make-page command prints.
type makePageResult struct {
	Events   int            `json:"events"`
	Emitters int            `json:"emitters"`
	Services map[string]int `json:"services"`
	Bytes    int            `json:"bytes"`
	Page     string         `json:"page"`
	Keys     string         `json:"keys"`
}

func makePageCommand(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("make-page", flag.ContinueOnError)
	events := fs.Int("events", 5000, "`number` of events")
	emitters := fs.Int("emitters", 50, "`number` of emitters")
	out := fs.String("out", "", "`file` to write; the keys go to FILE.keys")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if *emitters < 2 || *events < *emitters || *out == "" {
		return errors.New("make-page: needs out, two emitters or more and at least as many events as emitters")
	}

	resp, keys := makePage(*events, *emitters)
	page, keyFile, err := encodePage(resp, keys)
	if err != nil {
		return fmt.Errorf("make-page: %w", err)
	}
	if err := os.WriteFile(*out, page, 0o644); err != nil {
		return fmt.Errorf("make-page: %w", err)
	}
	if err := os.WriteFile(keysPath(*out), keyFile, 0o644); err != nil {
		return fmt.Errorf("make-page: %w", err)
	}

	services := make(map[string]int)
	for i := range resp.Events {
		services[resp.Events[i].Service]++
	}
	return printJSON(stdout, makePageResult{
		Events:   *events,
		Emitters: *emitters,
		Services: services,
		Bytes:    len(page),
		Page:     *out,
		Keys:     keysPath(*out),
	})
}

// encodePage returns the contents of the page file, which are the bytes an HTTP
// answer would have, and of the key file.
func encodePage(resp *SyncResponse, keys keyring) (page, keyFile []byte, err error) {
	var buf bytes.Buffer
	if err := json.NewEncoder(&buf).Encode(resp); err != nil {
		return nil, nil, err
	}
	texts := make(map[string]string, len(keys))
	for name, key := range keys {
		texts[name] = base64.StdEncoding.EncodeToString(key)
	}
	keyFile, err = json.MarshalIndent(texts, "", "  ")
	if err != nil {
		return nil, nil, err
	}
	return buf.Bytes(), append(keyFile, '\n'), nil
}

// resident is one made-up nara of a generated page.
type resident struct {
	*signer
	id, key, ip string
}

// newResident returns the i-th made-up nara.
func newResident(i int) resident {
	places := [...]string{"amber", "birch", "coral", "delta", "ember", "fjord", "grove", "heath", "inlet", "ñandú"}
	name := fmt.Sprintf("%s-%03d", places[i%len(places)], i)
	seed := sha256.Sum256([]byte("go-baseline seed " + strconv.Itoa(i)))
	s := newSigner(name, seed)
	return resident{
		signer: s,
		id:     naraID(name, seed),
		key:    base64.StdEncoding.EncodeToString(s.public()),
		ip:     fmt.Sprintf("100.64.%d.%d", i/250, i%250+1),
	}
}

// naraID returns the id of the nara with the given name and seed: the base58
// SHA-256 of soul and name, where the soul is the seed and its bond to the name.
func naraID(name string, seed [ed25519.SeedSize]byte) string {
	bond := hmac.New(sha256.New, seed[:])
	io.WriteString(bond, "nara:name:v2:"+name)
	soul := append(seed[:], bond.Sum(nil)[:8]...)
	sum := sha256.Sum256(append(soul, name...))
	return base58(sum[:])
}

// base58 encodes b with the Bitcoin alphabet.
func base58(b []byte) string {
	const alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
	var (
		out   []byte
		n     = new(big.Int).SetBytes(b)
		base  = big.NewInt(int64(len(alphabet)))
		digit = new(big.Int)
	)
	for n.Sign() > 0 {
		n.DivMod(n, base, digit)
		out = append(out, alphabet[digit.Int64()])
	}
	for _, c := range b {
		if c != 0 {
			break
		}
		out = append(out, alphabet[0])
	}
	slices.Reverse(out)
	return string(out)
}

// makePage returns a signed sync response of the page mode, oldest event first,
// and the keys of all emitters. The same arguments always give the same page.
// The first emitter is also the responder.
func makePage(events, emitters int) (*SyncResponse, keyring) {
	residents := make([]resident, emitters)
	keys := make(keyring, emitters)
	for i := range residents {
		residents[i] = newResident(i)
		keys.add(residents[i].signer)
	}

	rng := rand.New(rand.NewPCG(1, 2))
	resp := &SyncResponse{
		From:   residents[0].name,
		Events: make([]Event, events),
	}
	var h hasher
	ts := int64(pageEpoch) * 1e9
	for i := range resp.Events {
		ts += 1 + rng.Int64N(20e9)
		by := i % emitters // everyone emits equally often
		other := (by + 1 + rng.IntN(emitters-1)) % emitters

		e := &resp.Events[i]
		e.Timestamp = ts
		fillPayload(e, rng, residents[by], residents[other])
		h.sign(e, residents[by].signer)
	}
	resp.NextCursor = strconv.FormatInt(ts, 10)
	resp.Timestamp = ts/1e9 + 1
	resp.sign(residents[0].signer)
	return resp, keys
}

// pick returns a random one of options.
func pick(rng *rand.Rand, options ...string) string {
	return options[rng.IntN(len(options))]
}

// fillPayload gives e a random payload in which by says something about other:
// 30 % social, 25 % ping, 25 % observation, 15 % seen, 5 % hey-there.
func fillPayload(e *Event, rng *rand.Rand, by, other resident) {
	switch n := rng.IntN(100); {
	case n < 30:
		e.Service = svcSocial
		e.Social = &Social{
			Type:     pick(rng, "tease", "observed", "gossip", "observation"),
			Actor:    by.name,
			ActorID:  by.id,
			Target:   other.name,
			TargetID: other.id,
			Reason:   pick(rng, "high-restarts", "comeback", "trend-abandon", "random", "nice-number", "online"),
		}
		if e.Social.Type == "gossip" {
			e.Social.Witness = by.name
		}
	case n < 55:
		e.Service = svcPing
		e.Ping = &Ping{
			Observer:   by.name,
			ObserverID: by.id,
			Target:     other.name,
			TargetID:   other.id,
			RTT:        float64(1+rng.IntN(400_000)) / 1000,
		}
	case n < 80:
		e.Service = svcObservation
		e.Observation = makeObservation(e.Timestamp/1e9, rng, by, other)
	case n < 95:
		e.Service = svcSeen
		e.Seen = &Seen{
			Observer:   by.name,
			ObserverID: by.id,
			Subject:    other.name,
			SubjectID:  other.id,
			Via:        pick(rng, "zine", "mesh", "ping", "sync"),
		}
	default:
		e.Service = svcHeyThere
		e.HeyThere = &HeyThere{
			From:      by.name,
			PublicKey: by.key,
			MeshIP:    by.ip,
			ID:        by.id,
		}
	}
}

// makeObservation returns a random observation made by by at now (Unix seconds).
func makeObservation(now int64, rng *rand.Rand, by, other resident) *ObservationEvent {
	o := &ObservationEvent{
		Observer:       by.name,
		ObserverID:     by.id,
		Subject:        other.name,
		SubjectID:      other.id,
		Type:           pick(rng, "restart", "first-seen", "status-change", "status-change"),
		Importance:     3,
		ObserverUptime: uint64(rng.IntN(1_000_000)),
	}
	switch o.Type {
	case "restart":
		o.StartTime = now - 1 - rng.Int64N(10_000_000)
		o.RestartNum = rng.Int64N(2000)
		o.LastRestart = now
	case "first-seen":
		o.StartTime = now - 1 - rng.Int64N(10_000_000)
	default:
		o.Importance = 2
		o.OnlineState = pick(rng, "ONLINE", "OFFLINE", "MISSING")
		o.ClusterName = pick(rng, "", "rio", "pampa")
	}
	return o
}
