package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"tailscale.com/tsnet"
)

// These values match lab/runner/src/bench/line.rs.
const (
	// lineConnections is the number of connections with concurrent requests.
	lineConnections = 4
	// lineRequests is the duration of the concurrent requests.
	lineRequests = 8 * time.Second
	// lineTransfers is the number of concurrent transfers, with requests beside
	// them.
	lineTransfers = 8
	// lineSearch is the timeout for a direct path.
	lineSearch = 10 * time.Second
	// lineTransfer is the timeout of a blob.
	lineTransfer = 45 * time.Second
)

// lineFigures are the measurements over one line; null stands for a timeout.
type lineFigures struct {
	FirstMillis  float64  `json:"first_ms"`
	DirectMillis *float64 `json:"direct_ms"`
	P50Millis    float64  `json:"p50_ms"`
	P99Millis    float64  `json:"p99_ms"`
	DownMB       *float64 `json:"down_mb_s"`
	UpMB         *float64 `json:"up_mb_s"`
	TogetherMB   *float64 `json:"together_mb_s"`
	BesideP50    float64  `json:"beside_p50_ms"`
	BesideP99    float64  `json:"beside_p99_ms"`
}

// measureLine sends requests over an emulated line, and a blob in each
// direction.
func measureLine(server *tsnet.Server, address string, blob int) error {
	peer, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	nara := naraAt(server, address)
	var found lineFigures
	begin := time.Now()
	if err := nara.request(); err != nil {
		return err
	}
	found.FirstMillis = millis(time.Since(begin))
	for time.Since(begin) < lineSearch {
		direct, err := isDirect(server, peer.Addr())
		if err != nil {
			return err
		}
		if direct {
			took := millis(time.Since(begin))
			found.DirectMillis = &took
			break
		}
		if err := nara.request(); err != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}

	var mu sync.Mutex
	var taken []time.Duration
	var failed error
	var all sync.WaitGroup
	for range lineConnections {
		all.Go(func() {
			// The first request may open the connection.
			err := nara.request()
			for begin := time.Now(); err == nil && time.Since(begin) < lineRequests; {
				one := time.Now()
				err = nara.request()
				mu.Lock()
				taken = append(taken, time.Since(one))
				mu.Unlock()
			}
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if failed != nil {
		return failed
	}
	slices.Sort(taken)
	found.P50Millis = millis(taken[len(taken)/2])
	found.P99Millis = millis(taken[len(taken)*99/100])

	if found.DownMB, err = inTime(nara.download, blob); err != nil {
		return err
	}
	if found.UpMB, err = inTime(nara.upload, blob); err != nil {
		return err
	}
	if err := together(nara, blob, &found); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// together downloads blobs concurrently with requests beside them.
func together(nara nara, blob int, found *lineFigures) error {
	if err := nara.request(); err != nil {
		return err
	}
	done := make(chan error, 1)
	begin := time.Now()
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lineTransfer)
		defer cancel()
		var all sync.WaitGroup
		failures := make(chan error, lineTransfers)
		for range lineTransfers {
			all.Go(func() {
				_, err := nara.download(ctx, blob/lineTransfers)
				failures <- err
			})
		}
		all.Wait()
		close(failures)
		var failed error
		for err := range failures {
			failed = errors.Join(failed, err)
		}
		done <- failed
	}()
	var taken []time.Duration
	for {
		one := time.Now()
		if err := nara.request(); err != nil {
			return err
		}
		took := time.Since(one)
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			if err == nil {
				rate := float64(blob) / 1e6 / time.Since(begin).Seconds()
				found.TogetherMB = &rate
			}
			if len(taken) > 0 {
				slices.Sort(taken)
				found.BesideP50 = millis(taken[len(taken)/2])
				found.BesideP99 = millis(taken[len(taken)*99/100])
			}
			return nil
		default:
			taken = append(taken, took)
		}
	}
}

// inTime returns nil if the transfer timed out.
func inTime(transfer func(context.Context, int) (float64, error), blob int) (*float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lineTransfer)
	defer cancel()
	rate, err := transfer(ctx, blob)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &rate, nil
}

// isDirect reports whether packets to this peer use a direct path.
func isDirect(server *tsnet.Server, peer netip.Addr) (bool, error) {
	client, err := server.LocalClient()
	if err != nil {
		return false, err
	}
	status, err := client.Status(context.Background())
	if err != nil {
		return false, err
	}
	for _, known := range status.Peer {
		if slices.Contains(known.TailscaleIPs, peer) {
			return known.CurAddr != "", nil
		}
	}
	return false, nil
}
