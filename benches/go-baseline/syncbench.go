package main

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// verifyBatch is how many events a verifying goroutine takes at a time.
const verifyBatch = 32

// syncResult is what the sync command prints. Verified and Bad count over all
// rounds.
type syncResult struct {
	Events       int     `json:"events"`
	Rounds       int     `json:"rounds"`
	Seconds      float64 `json:"seconds"`
	EventsPerSec float64 `json:"events_per_s"`
	Cores        int     `json:"cores"`
	Verified     int     `json:"verified"`
	Bad          int     `json:"bad"`
}

func syncCommand(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("sync", flag.ContinueOnError)
	events := fs.Int("events", 0, "expected `number` of events in the page, 0 to accept any")
	emitters := fs.Int("emitters", 0, "expected `number` of emitters in the page, 0 to accept any")
	rounds := fs.Int("rounds", 10, "`number` of times to decode and verify the page")
	coresFlag := fs.String("cores", "1", "`1 or all`: cores to use")
	path := fs.String("page", "", "sync response `file`; its keys are read from FILE.keys")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	var cores int
	switch *coresFlag {
	case "1":
		cores = 1
	case "all":
		cores = runtime.NumCPU()
	default:
		return fmt.Errorf("sync: cores must be 1 or all, not %q", *coresFlag)
	}
	if *path == "" || *rounds < 1 {
		return errors.New("sync: a page is needed and rounds must be positive")
	}

	page, err := os.ReadFile(*path)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	keys, err := readKeys(keysPath(*path))
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := checkPage(page, keys, *events, *emitters); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	res, err := runSync(page, keys, *rounds, cores)
	if err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	if err := printJSON(stdout, res); err != nil {
		return err
	}
	if res.Bad > 0 {
		return fmt.Errorf("sync: %d of %d verifications failed", res.Bad, res.Bad+res.Verified)
	}
	return nil
}

// keysPath returns the name of the key file that belongs to a page file.
func keysPath(page string) string { return page + ".keys" }

// readKeys reads a JSON object of names and base64 public keys.
func readKeys(path string) (keyring, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var texts map[string]string
	if err := json.Unmarshal(data, &texts); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	keys := make(keyring, len(texts))
	for name, text := range texts {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(key) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%s: bad public key for %q", path, name)
		}
		keys[name] = key
	}
	return keys, nil
}

// checkPage checks, before anything is measured, that page has the expected
// size (0 accepts any) and that its own signature is good if it has one by a
// known key.
func checkPage(page []byte, keys keyring, events, emitters int) error {
	var resp SyncResponse
	if err := json.Unmarshal(page, &resp); err != nil {
		return err
	}
	if events != 0 && events != len(resp.Events) {
		return fmt.Errorf("page has %d events, not %d", len(resp.Events), events)
	}
	names := make(map[string]struct{})
	for i := range resp.Events {
		names[resp.Events[i].Emitter] = struct{}{}
	}
	if emitters != 0 && emitters != len(names) {
		return fmt.Errorf("page has %d emitters, not %d", len(names), emitters)
	}
	if _, known := keys[resp.From]; known && resp.Signature != "" && !resp.verify(keys) {
		return errors.New("page signature verification failed")
	}
	return nil
}

// runSync decodes and verifies page rounds times on the given number of cores.
// It limits the whole runtime, garbage collection included, to that number for
// the duration.
func runSync(page []byte, keys keyring, rounds, cores int) (*syncResult, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))

	res := &syncResult{Rounds: rounds, Cores: cores}
	start := time.Now()
	for range rounds {
		var resp SyncResponse
		if err := json.Unmarshal(page, &resp); err != nil {
			return nil, err
		}
		good := verifyEvents(resp.Events, keys, cores)
		res.Events = len(resp.Events)
		res.Verified += good
		res.Bad += len(resp.Events) - good
	}
	res.Seconds = time.Since(start).Seconds()
	res.EventsPerSec = float64(res.Events*rounds) / res.Seconds
	return res, nil
}

// verifyEvents returns how many of events verify, using the given number of
// goroutines.
func verifyEvents(events []Event, keys keyring, workers int) int {
	if workers <= 1 {
		var h hasher
		return countGood(&h, events, keys)
	}
	var (
		wg         sync.WaitGroup
		next, good atomic.Int64
	)
	for range workers {
		wg.Go(func() {
			var h hasher
			for {
				end := int(next.Add(verifyBatch))
				start := end - verifyBatch
				if start >= len(events) {
					return
				}
				batch := events[start:min(end, len(events))]
				good.Add(int64(countGood(&h, batch, keys)))
			}
		})
	}
	wg.Wait()
	return int(good.Load())
}

// countGood returns how many of events verify.
func countGood(h *hasher, events []Event, keys keyring) int {
	n := 0
	for i := range events {
		if h.verify(&events[i], keys) {
			n++
		}
	}
	return n
}
