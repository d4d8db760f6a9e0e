package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"tailscale.com/tsnet"
)

// blobSize is the default size in bytes of the body that measures throughput.
const blobSize = 8 << 20

// maxBlob is the maximum size of a blob in bytes.
const maxBlob = 64 << 20

// benchKey is the identity of both ends: the work is the same as with two
// keys, and no key exchange is needed.
var benchKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))

// signedText returns the text that the authentication headers of naras sign.
func signedText(name string, ms int64, suffix string) []byte {
	return []byte(name + strconv.FormatInt(ms, 10) + suffix)
}

func sign(header http.Header, suffix string) {
	ms := time.Now().UnixMilli()
	header.Set("X-Nara-Name", "bench")
	header.Set("X-Nara-Timestamp", strconv.FormatInt(ms, 10))
	signature := ed25519.Sign(benchKey, signedText("bench", ms, suffix))
	header.Set("X-Nara-Signature", base64.StdEncoding.EncodeToString(signature))
}

func verify(header http.Header, suffix string) error {
	ms, err := strconv.ParseInt(header.Get("X-Nara-Timestamp"), 10, 64)
	if err != nil {
		return err
	}
	signature, err := base64.StdEncoding.DecodeString(header.Get("X-Nara-Signature"))
	if err != nil {
		return err
	}
	text := signedText(header.Get("X-Nara-Name"), ms, suffix)
	if !ed25519.Verify(benchKey.Public().(ed25519.PublicKey), text, signature) {
		return errors.New("the signature does not verify")
	}
	return nil
}

func bodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// serveBench answers small signed requests, and sends and receives blobs.
func serveBench(listener net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /dm", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if err := verify(r.Header, r.Method+r.URL.Path); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		body := []byte(`{"success":true}`)
		sign(w.Header(), bodyHash(body))
		w.Write(body)
	})
	mux.HandleFunc("GET /blob/{size}", func(w http.ResponseWriter, r *http.Request) {
		size, err := strconv.Atoi(r.PathValue("size"))
		if err != nil || size < 0 || size > maxBlob {
			http.Error(w, "no such blob", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		w.Write(make([]byte, size))
	})
	mux.HandleFunc("POST /blob", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
	})
	http.Serve(listener, mux)
}

type figures struct {
	ReadyMillis float64 `json:"ready_ms"`
	FirstMillis float64 `json:"first_ms"`
	PerSecond   float64 `json:"requests_per_second"`
	P50Micros   float64 `json:"p50_us"`
	P99Micros   float64 `json:"p99_us"`
	DownMB      float64 `json:"down_mb_s"`
	UpMB        float64 `json:"up_mb_s"`
	MemoryMB    float64 `json:"memory_mb"`
}

// nara is the server of a client: serveBench, or the bench of the lab.
type nara struct {
	client *http.Client
	url    string
}

func naraAt(server *tsnet.Server, address string) nara {
	return nara{
		client: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return server.Dial(ctx, network, address)
			},
			MaxIdleConnsPerHost: lineConnections,
		}},
		url: "http://" + address,
	}
}

// request sends a small signed request and verifies the answer.
func (n nara) request() error {
	body := []byte(`{"text":"hello"}`)
	r, err := http.NewRequest("POST", n.url+"/dm", bytes.NewReader(body))
	if err != nil {
		return err
	}
	sign(r.Header, "POST/dm")
	res, err := n.client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, answer)
	}
	return verify(res.Header, bodyHash(answer))
}

// download receives a blob and returns the rate in MB/s.
func (n nara) download(ctx context.Context, size int) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/blob/%d", n.url, size), nil)
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	res, err := n.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	received, err := io.Copy(io.Discard, res.Body)
	if err != nil {
		return 0, err
	}
	return float64(received) / 1e6 / time.Since(begin).Seconds(), nil
}

// upload sends a blob and returns the rate in MB/s.
func (n nara) upload(ctx context.Context, size int) (float64, error) {
	r, err := http.NewRequestWithContext(ctx, "POST", n.url+"/blob", bytes.NewReader(make([]byte, size)))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	begin := time.Now()
	res, err := n.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return 0, err
	}
	return float64(size) / 1e6 / time.Since(begin).Seconds(), nil
}

// measure sends requests to a nara and prints the results.
func measure(server *tsnet.Server, address string, ready, duration time.Duration) error {
	nara := naraAt(server, address)
	// Idle memory is measured before any traffic.
	time.Sleep(time.Second)
	found := figures{ReadyMillis: millis(ready), MemoryMB: residentMB()}
	begin := time.Now()
	if err := nara.request(); err != nil {
		return err
	}
	found.FirstMillis = millis(time.Since(begin))

	var taken []time.Duration
	for begin = time.Now(); time.Since(begin) < duration; {
		one := time.Now()
		if err := nara.request(); err != nil {
			return err
		}
		taken = append(taken, time.Since(one))
	}
	found.PerSecond = float64(len(taken)) / time.Since(begin).Seconds()
	slices.Sort(taken)
	found.P50Micros = millis(taken[len(taken)/2]) * 1000
	found.P99Micros = millis(taken[len(taken)*99/100]) * 1000

	var err error
	if found.DownMB, err = nara.download(context.Background(), blobSize); err != nil {
		return err
	}
	if found.UpMB, err = nara.upload(context.Background(), blobSize); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// residentMB returns the resident memory of this process in MB.
func residentMB() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, resident float64
	fmt.Sscan(string(text), &size, &resident)
	return resident * float64(os.Getpagesize()) / 1e6
}
