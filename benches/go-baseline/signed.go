package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const syncPath = "/events/sync"

// signedOptions are the settings of the signed round trip measurement.
type signedOptions struct {
	requests int  // measured round trips
	inFlight int  // concurrent clients
	warmup   int  // round trips before the clock starts
	unsigned bool // leave out all header signatures
	inner    bool // sign and verify the sync answer itself, too
}

// signedResult is what the signed command prints.
type signedResult struct {
	Requests int     `json:"requests"`
	Seconds  float64 `json:"seconds"`
	RPS      float64 `json:"rps"`
	P50us    float64 `json:"p50_us"`
	P99us    float64 `json:"p99_us"`
	Unsigned bool    `json:"unsigned"`
	Inner    bool    `json:"inner"`
	Cores    int     `json:"cores"`
}

func signedCommand(args []string, stdout io.Writer) error {
	var opt signedOptions
	fs := flag.NewFlagSet("signed", flag.ContinueOnError)
	fs.IntVar(&opt.requests, "requests", 20000, "`number` of measured round trips")
	fs.IntVar(&opt.inFlight, "in-flight", 16, "`number` of concurrent requests")
	fs.IntVar(&opt.warmup, "warmup", 2000, "`number` of round trips before measuring")
	fs.BoolVar(&opt.unsigned, "unsigned", false, "leave out request and response header signatures")
	fs.BoolVar(&opt.inner, "inner", false, "also sign and verify the sync answer inside the body")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if opt.requests < 1 || opt.inFlight < 1 || opt.warmup < 0 {
		return errors.New("signed: requests and in-flight must be positive, warmup not negative")
	}
	res, err := runSigned(opt)
	if err != nil {
		return fmt.Errorf("signed: %w", err)
	}
	return printJSON(stdout, res)
}

// runSigned starts a server on loopback, drives it as opt says and reports
// throughput and latency. Any failed round trip fails the whole run.
func runSigned(opt signedOptions) (*signedResult, error) {
	client := newSigner("alice", sha256.Sum256([]byte("go-baseline client")))
	server := newSigner("bob", sha256.Sum256([]byte("go-baseline server")))
	keys := keyring{}
	keys.add(client, server)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: syncServer(server, keys, opt)}
	go srv.Serve(ln)
	defer srv.Close()

	c := newSyncClient("http://"+ln.Addr().String(), client, keys, opt)
	defer c.http.CloseIdleConnections()

	if _, err := c.drive(opt.warmup, opt.inFlight); err != nil {
		return nil, fmt.Errorf("warmup: %w", err)
	}
	start := time.Now()
	latencies, err := c.drive(opt.requests, opt.inFlight)
	elapsed := time.Since(start).Seconds()
	if err != nil {
		return nil, err
	}

	slices.Sort(latencies)
	return &signedResult{
		Requests: opt.requests,
		Seconds:  elapsed,
		RPS:      float64(opt.requests) / elapsed,
		P50us:    microseconds(percentile(latencies, 50)),
		P99us:    microseconds(percentile(latencies, 99)),
		Unsigned: opt.unsigned,
		Inner:    opt.inner,
		Cores:    runtime.NumCPU(),
	}, nil
}

// syncServer returns a handler for POST /events/sync of a nara without events.
func syncServer(self *signer, keys keyring, opt signedOptions) http.Handler {
	var answer http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
			return
		}
		var req SyncRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, "Invalid JSON", http.StatusBadRequest)
			return
		}
		if req.From == "" {
			http.Error(w, "from is required", http.StatusBadRequest)
			return
		}
		resp := SyncResponse{From: self.name, Timestamp: time.Now().Unix()}
		if opt.inner {
			resp.sign(self)
		}
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		json.NewEncoder(w).Encode(&resp)
	})
	if !opt.unsigned {
		answer = authenticated(self, keys, answer)
	}
	mux := http.NewServeMux()
	mux.Handle(syncPath, answer)
	return mux
}

// syncClient makes sync requests to one server.
type syncClient struct {
	http *http.Client
	url  string
	self *signer
	keys keyring
	opt  signedOptions
}

// newSyncClient returns a client with the connection pool of a mesh node.
func newSyncClient(base string, self *signer, keys keyring, opt signedOptions) *syncClient {
	return &syncClient{
		http: &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
				MaxIdleConns:        100,
				MaxIdleConnsPerHost: 20,
				IdleConnTimeout:     90 * time.Second,
			},
		},
		url:  base + syncPath,
		self: self,
		keys: keys,
		opt:  opt,
	}
}

// roundTrip makes one request and checks the answer.
func (c *syncClient) roundTrip() error {
	payload, err := json.Marshal(&SyncRequest{From: c.self.name, Mode: "recent", Limit: 1})
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, c.url, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if !c.opt.unsigned {
		c.self.signRequest(req)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("server returned %d: %s", resp.StatusCode, bytes.TrimSpace(body))
	}
	if !c.opt.unsigned {
		if err := c.keys.verifyResponse(resp.Header, body); err != nil {
			return fmt.Errorf("response: %w", err)
		}
	}
	var answer SyncResponse
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if c.opt.inner && !answer.verify(c.keys) {
		return errors.New("sync answer: signature verification failed")
	}
	return nil
}

// drive makes n round trips with the given concurrency. It returns the duration
// of each, in no particular order, or the first error of any worker.
func (c *syncClient) drive(n, inFlight int) ([]time.Duration, error) {
	var (
		wg        sync.WaitGroup
		next      atomic.Int64
		latencies = make([]time.Duration, n)
		errs      = make([]error, inFlight)
	)
	for worker := range inFlight {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				start := time.Now()
				if err := c.roundTrip(); err != nil {
					errs[worker] = err
					next.Store(int64(n))
					return
				}
				latencies[i] = time.Since(start)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return latencies, nil
}

// percentile returns the nearest-rank p-th percentile of sorted, which must not
// be empty.
func percentile(sorted []time.Duration, p int) time.Duration {
	rank := (len(sorted)*p + 99) / 100
	return sorted[max(rank, 1)-1]
}

// microseconds returns d in microseconds.
func microseconds(d time.Duration) float64 {
	return float64(d.Nanoseconds()) / 1e3
}
