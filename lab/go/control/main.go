// Command control is the control server of the lab: the test control server of
// the tailscale.com module with a given relay map.
//
// It reads commands as lines from standard input: "down" refuses connections
// and closes open ones, "up" accepts them again, "expire" expires the keys of
// all nodes, and "unexpire" reverts that. It echoes each command to standard
// output, and exits when standard input ends.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"sync"

	"tailscale.com/tailcfg"
	"tailscale.com/tstest/integration/testcontrol"
	"tailscale.com/types/logger"
)

func main() {
	listen := flag.String("listen", "", "address to listen on")
	authKey := flag.String("auth-key", "", "the auth key that nodes need; none if empty")
	relays := flag.String("relays", "", "file with the relay map, as JSON")
	flag.Parse()

	text, err := os.ReadFile(*relays)
	if err != nil {
		log.Fatal(err)
	}
	relayMap := new(tailcfg.DERPMap)
	if err := json.Unmarshal(text, relayMap); err != nil {
		log.Fatal(err)
	}

	control := &testcontrol.Server{
		Logf:             logger.Discard,
		RequireAuthKey:   *authKey,
		ExplicitBaseURL:  "http://" + *listen,
		AllNodesSameUser: true,
		// Like real control servers, send the relay map once per stream, not with
		// each change of a peer.
		ModifyFirstMapResponse: func(res *tailcfg.MapResponse, req *tailcfg.MapRequest) {
			if req.Stream {
				res.DERPMap = relayMap
			} else {
				*res = tailcfg.MapResponse{}
			}
		},
	}
	// Otherwise nodes would get the public relays.
	control.DERPMap = nil

	door := &door{address: *listen, handler: control}
	if err := door.open(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")

	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch command := lines.Text(); command {
		case "down":
			door.close()
		case "up":
			if err := door.open(); err != nil {
				log.Fatal(err)
			}
		case "expire":
			control.SetExpireAllNodes(true)
		case "unexpire":
			control.SetExpireAllNodes(false)
		default:
			log.Fatalf("unknown command %q", command)
		}
		fmt.Println(lines.Text())
	}
}

// door is a listener that accepts connections only while it is open.
type door struct {
	address string
	handler http.Handler

	mu       sync.Mutex
	listener net.Listener
	// conns tracks the connections here because http.Server does not track
	// upgraded ones.
	conns map[net.Conn]struct{}
}

func (d *door) open() error {
	listener, err := net.Listen("tcp", d.address)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.listener = listener
	d.conns = make(map[net.Conn]struct{})
	d.mu.Unlock()
	go (&http.Server{Handler: d.handler}).Serve(&trackingListener{listener, d})
	return nil
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listener.Close()
	for conn := range d.conns {
		conn.Close()
	}
	d.conns = nil
}

type trackingListener struct {
	net.Listener
	door *door
}

func (l *trackingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.door.mu.Lock()
	defer l.door.mu.Unlock()
	if l.door.conns == nil {
		conn.Close()
		return conn, nil
	}
	l.door.conns[conn] = struct{}{}
	return &trackedConn{Conn: conn, door: l.door}, nil
}

type trackedConn struct {
	net.Conn
	door *door
}

func (c *trackedConn) Close() error {
	c.door.mu.Lock()
	delete(c.door.conns, c.Conn)
	c.door.mu.Unlock()
	return c.Conn.Close()
}
