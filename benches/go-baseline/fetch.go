package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"time"
)

func fetchCommand(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("fetch", flag.ContinueOnError)
	rounds := fs.Int("rounds", 10, "`number` of times to fetch, decode and verify the page")
	coresFlag := fs.String("cores", "all", "`1 or all`: cores to verify on")
	path := fs.String("page", "", "sync response `file`; its keys are read from FILE.keys")
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	if *path == "" || *rounds < 1 || (*coresFlag != "1" && *coresFlag != "all") {
		return errors.New("fetch: a page is needed, rounds must be positive, cores 1 or all")
	}
	cores := 1
	if *coresFlag == "all" {
		cores = runtime.NumCPU()
	}
	page, err := os.ReadFile(*path)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	keys, err := readKeys(keysPath(*path))
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	res, err := runFetch(page, keys, *rounds, cores)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	return printJSON(stdout, res)
}

// runFetch fetches page over loopback, decodes it and verifies its events, one
// round after the other as a nara does, verifying on the given number of
// goroutines. It stores nothing. The server only copies bytes.
func runFetch(page []byte, keys keyring, rounds, cores int) (*syncResult, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Write(page)
	})}
	go server.Serve(listener)
	defer server.Close()

	url := "http://" + listener.Addr().String() + syncPath
	request := []byte(`{"from":"alice","services":null,"subjects":null,"mode":"page","page_size":5000}`)
	res := &syncResult{Rounds: rounds, Cores: cores}
	start := time.Now()
	for range rounds {
		answer, err := http.Post(url, "application/json", bytes.NewReader(request))
		if err != nil {
			return nil, err
		}
		var resp SyncResponse
		err = json.NewDecoder(answer.Body).Decode(&resp)
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil {
			return nil, err
		}
		good := verifyEvents(resp.Events, keys, cores)
		res.Events = len(resp.Events)
		res.Verified += good
		res.Bad += len(resp.Events) - good
	}
	res.Seconds = time.Since(start).Seconds()
	res.EventsPerSec = float64(res.Events*rounds) / res.Seconds
	if res.Bad > 0 {
		return nil, fmt.Errorf("%d of %d verifications failed", res.Bad, res.Bad+res.Verified)
	}
	return res, nil
}
