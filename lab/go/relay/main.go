// Command relay is a relay (DERP) and a STUN server of the lab.
//
// When ready, it writes a line of JSON: the node for a relay map, with its
// address and certificate. The certificate is created at the first start and
// kept, so that a restarted relay has the same identity. It exits when
// standard input ends.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stun"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

func main() {
	region := flag.Int("region", 900, "region number")
	host := flag.String("host", "127.0.0.1", "IPv4 address to listen on")
	host6 := flag.String("host6", "", "additional IPv6 address to listen on")
	port := flag.Int("port", 0, "TCP port of the relay")
	stunPort := flag.Int("stun-port", 0, "UDP port of the STUN server")
	folder := flag.String("folder", "", "folder for the certificate")
	flag.Parse()

	ip := net.ParseIP(*host)
	certificate, err := loadOrMake(*folder, ip)
	if err != nil {
		log.Fatal(err)
	}
	packets, err := net.ListenUDP("udp4", &net.UDPAddr{IP: ip, Port: *stunPort})
	if err != nil {
		log.Fatal(err)
	}
	go serveSTUN(packets)

	server := derpserver.New(key.NewNode(), logger.Discard)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.Handler(server))
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	listener, err := net.Listen("tcp", fmt.Sprintf("%s:%d", *host, *port))
	if err != nil {
		log.Fatal(err)
	}
	web := &http.Server{
		Handler:   mux,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}},
		ErrorLog:  log.New(io.Discard, "", 0),
		// A relay hijacks the connection, which HTTP/2 does not support.
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	go web.ServeTLS(listener, "", "")

	stunAt, relayAt := packets.LocalAddr().(*net.UDPAddr).Port, listener.Addr().(*net.TCPAddr).Port
	ipv6 := "none"
	if *host6 != "" {
		ipv6 = *host6
		packets, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP(ipv6), Port: stunAt})
		if err != nil {
			log.Fatal(err)
		}
		go serveSTUN(packets)
		listener, err := net.Listen("tcp", fmt.Sprintf("[%s]:%d", ipv6, relayAt))
		if err != nil {
			log.Fatal(err)
		}
		go web.ServeTLS(listener, "", "")
	}

	json.NewEncoder(os.Stdout).Encode(&tailcfg.DERPNode{
		Name:     fmt.Sprintf("%da", *region),
		RegionID: *region,
		HostName: *host,
		CertName: fmt.Sprintf("sha256-raw:%02x", sha256.Sum256(certificate.Certificate[0])),
		IPv4:     *host,
		IPv6:     ipv6,
		STUNPort: stunAt,
		DERPPort: relayAt,
	})
	io.Copy(io.Discard, os.Stdin)
}

func serveSTUN(conn *net.UDPConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		id, err := stun.ParseBindingRequest(buf[:n])
		if err != nil {
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		conn.WriteToUDPAddrPort(stun.Response(id, from), from)
	}
}

// loadOrMake returns the certificate in folder, and creates one for this
// address if there is none.
func loadOrMake(folder string, ip net.IP) (tls.Certificate, error) {
	certFile, keyFile := filepath.Join(folder, "relay.crt"), filepath.Join(folder, "relay.key")
	if certificate, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil {
		return certificate, nil
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "relay of the lab"},
		IPAddresses:  []net.IP{ip},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return tls.Certificate{}, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), 0o600); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(certFile, keyFile)
}
