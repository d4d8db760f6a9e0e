// Command peer is a tsnet node of the lab. The nara on it runs in the lab's
// process and uses the tailnet through two listeners:
//
// Each connection from the tailnet to the mesh port is forwarded to -forward,
// after a line with the source address. Each connection to the address printed
// as "door" begins with a line: "DIAL ip:port" opens a connection into the
// tailnet and is answered with "OK" or "ERR reason"; "STATUS" is answered with
// a line of JSON. Port 9700 in the tailnet is an echo server.
//
// It exits when standard input ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tsnet"
	"tailscale.com/types/logger"
)

// dialLimit is the timeout of a connection into the tailnet.
const dialLimit = 15 * time.Second

func main() {
	name := flag.String("name", "", "requested host name")
	control := flag.String("control", "", "address of the control server")
	authKey := flag.String("auth-key", "", "auth key")
	folder := flag.String("folder", "", "folder for the state of the node")
	port := flag.Int("port", 9632, "port in the tailnet")
	forward := flag.String("forward", "", "address to forward connections from the tailnet to")
	bench := flag.Bool("bench", false, "run a nara that answers signed requests, for measurements")
	load := flag.String("load", "", "send signed requests to this address in the tailnet, print the results and exit")
	seconds := flag.Int("seconds", 5, "duration of each measurement")
	line := flag.Int("line", 0, "with -load: measure a line with a blob of this many bytes")
	flag.Parse()

	server := &tsnet.Server{
		Dir:        *folder,
		Hostname:   *name,
		ControlURL: *control,
		AuthKey:    *authKey,
		Logf:       logger.Discard,
		UserLogf:   logger.Discard,
	}
	defer server.Close()
	begin := time.Now()
	up, cancel := context.WithTimeout(context.Background(), time.Minute)
	status, err := server.Up(up)
	cancel()
	if err != nil {
		log.Fatal(err)
	}
	ready := time.Since(begin)
	if *load != "" && *line > 0 {
		if err := measureLine(server, *load, *line); err != nil {
			log.Fatal(err)
		}
		return
	}
	if *load != "" {
		if err := measure(server, *load, ready, time.Duration(*seconds)*time.Second); err != nil {
			log.Fatal(err)
		}
		return
	}

	listener, err := server.Listen("tcp", fmt.Sprintf(":%d", *port))
	if err != nil {
		log.Fatal(err)
	}
	if *bench {
		go serveBench(listener)
	} else {
		go accept(listener, func(conn net.Conn) { passOn(conn, *forward) })
		echo, err := server.Listen("tcp", ":9700")
		if err != nil {
			log.Fatal(err)
		}
		go accept(echo, func(conn net.Conn) {
			defer conn.Close()
			io.Copy(conn, conn)
		})
	}

	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go accept(door, func(conn net.Conn) { serveDoor(server, conn) })
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"door":      door.Addr().String(),
		"addresses": status.TailscaleIPs,
		"name":      hostName(status.Self),
	})
	io.Copy(io.Discard, os.Stdin)
}

func accept(listener net.Listener, serve func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go serve(conn)
	}
}

// passOn forwards a connection from the tailnet to the nara.
func passOn(conn net.Conn, to string) {
	defer conn.Close()
	nara, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer nara.Close()
	fmt.Fprintf(nara, "%s\n", conn.RemoteAddr())
	join(conn, conn, nara, nara)
}

func serveDoor(server *tsnet.Server, conn net.Conn) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	line, err := reader.ReadString('\n')
	if err != nil {
		return
	}
	line = strings.TrimSpace(line)
	if line == "STATUS" {
		reportStatus(server, conn)
		return
	}
	address, ok := strings.CutPrefix(line, "DIAL ")
	if !ok {
		fmt.Fprintf(conn, "ERR unknown command\n")
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	peer, err := server.Dial(ctx, "tcp", address)
	cancel()
	if err != nil {
		fmt.Fprintf(conn, "ERR %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
		return
	}
	defer peer.Close()
	fmt.Fprintf(conn, "OK\n")
	join(conn, reader, peer, peer)
}

// join copies in both directions until one side ends.
func join(a net.Conn, fromA io.Reader, b net.Conn, fromB io.Reader) {
	done := make(chan struct{}, 2)
	copyTo := func(to net.Conn, from io.Reader) {
		io.Copy(to, from)
		done <- struct{}{}
	}
	go copyTo(b, fromA)
	go copyTo(a, fromB)
	<-done
}

func reportStatus(server *tsnet.Server, to io.Writer) {
	client, err := server.LocalClient()
	if err != nil {
		fmt.Fprintf(to, "ERR %v\n", err)
		return
	}
	status, err := client.Status(context.Background())
	if err != nil {
		fmt.Fprintf(to, "ERR %v\n", err)
		return
	}
	type peer struct {
		Name      string   `json:"name"`
		Addresses []string `json:"addresses"`
		// Endpoint is the address of the direct path; empty if packets use a relay.
		Endpoint string `json:"endpoint"`
	}
	answer := struct {
		State     string   `json:"state"`
		Name      string   `json:"name"`
		Addresses []string `json:"addresses"`
		Peers     []peer   `json:"peers"`
	}{State: status.BackendState, Peers: []peer{}}
	if status.Self != nil {
		answer.Name = hostName(status.Self)
		for _, ip := range status.Self.TailscaleIPs {
			answer.Addresses = append(answer.Addresses, ip.String())
		}
	}
	for _, p := range status.Peer {
		found := peer{Name: hostName(p), Endpoint: p.CurAddr}
		for _, ip := range p.TailscaleIPs {
			found.Addresses = append(found.Addresses, ip.String())
		}
		answer.Peers = append(answer.Peers, found)
	}
	json.NewEncoder(to).Encode(answer)
}

// hostName returns the name assigned by the control server.
func hostName(peer *ipnstate.PeerStatus) string {
	name, _, _ := strings.Cut(peer.DNSName, ".")
	if name == "" {
		return peer.HostName
	}
	return name
}
