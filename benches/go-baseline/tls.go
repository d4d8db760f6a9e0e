package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// identityConfig returns a TLS configuration in which self presents its key and accepts exactly the peers for
// which allowed returns true.
//
// A nara's certificate is only a container for its Ed25519 key: its issuer, names and dates are ignored.
// VerifyConnection, unlike VerifyPeerCertificate, also runs for resumed sessions.
func identityConfig(self *signer, allowed func(ed25519.PublicKey) bool) (*tls.Config, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, self.key.Public(), self.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: self.key}},
		InsecureSkipVerify: true, // VerifyConnection does it.
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection: func(state tls.ConnectionState) error {
			key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || !allowed(key) {
				return errors.New("the peer has another key than the expected one")
			}
			return nil
		},
	}, nil
}

// peerFlags are the flags of both TLS commands: our identity and the expected peer.
type peerFlags struct {
	name, peer, key string
}

func (p *peerFlags) register(fs *flag.FlagSet) {
	fs.StringVar(&p.name, "name", "gopher", "`name` of this nara; its key follows from it")
	fs.StringVar(&p.peer, "peer", "", "`name` of the other nara")
	fs.StringVar(&p.key, "peer-key", "", "public `key` of the other nara, base64")
}

// identities returns this nara, the keys of both naras, and the TLS configuration
// that accepts the other one.
func (p *peerFlags) identities() (*signer, keyring, *tls.Config, error) {
	key, err := base64.StdEncoding.DecodeString(p.key)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, nil, nil, errors.New("--peer-key is not a public key")
	}
	self := newSigner(p.name, sha256.Sum256([]byte("go-baseline "+p.name)))
	keys := keyring{p.peer: ed25519.PublicKey(key)}
	keys.add(self)
	config, err := identityConfig(self, func(shown ed25519.PublicKey) bool { return shown.Equal(ed25519.PublicKey(key)) })
	return self, keys, config, err
}

// tlsResult is what the tls-client command prints.
type tlsResult struct {
	Version string `json:"version"`
	Cipher  string `json:"cipher"`
	Resumed []bool `json:"resumed"` // of each connection
	Name    string `json:"name"`    // what /ping says
}

// tlsClientCommand calls a nara over TLS: /ping and a signed /events/sync, each on a new connection, so that
// the second one resumes the session.
func tlsClientCommand(args []string, stdout io.Writer) error {
	var peer peerFlags
	fs := flag.NewFlagSet("tls-client", flag.ContinueOnError)
	address := fs.String("address", "", "`address` of the other nara")
	peer.register(fs)
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	self, keys, config, err := peer.identities()
	if err != nil {
		return err
	}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	var result tlsResult
	client := newSyncClient("https://"+*address, self, keys, signedOptions{inner: true})
	client.http.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}
	verify := config.VerifyConnection
	config.VerifyConnection = func(state tls.ConnectionState) error {
		result.Version = tls.VersionName(state.Version)
		result.Cipher = tls.CipherSuiteName(state.CipherSuite)
		result.Resumed = append(result.Resumed, state.DidResume)
		return verify(state)
	}
	if result.Name, err = client.ping("https://" + *address); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	if err := client.roundTrip(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return printJSON(stdout, &result)
}

// ping returns the name that the nara at base reports.
func (c *syncClient) ping(base string) (string, error) {
	resp, err := c.http.Get(base + "/ping")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		From      string `json:"from"`
		PublicKey string `json:"public_key"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4096)).Decode(&answer); err != nil {
		return "", err
	}
	key := base64.StdEncoding.EncodeToString(c.keys[answer.From])
	if answer.PublicKey != key {
		return "", fmt.Errorf("%s reports key %q", answer.From, answer.PublicKey)
	}
	return answer.From, nil
}

// listening is the first line that the tls-server command prints.
type listening struct {
	Address   string `json:"address"`
	Name      string `json:"name"`
	PublicKey string `json:"public_key"`
}

// tlsServerCommand serves /ping and signed /events/sync over TLS, to one peer,
// until its standard input ends.
func tlsServerCommand(args []string, stdout io.Writer) error {
	var peer peerFlags
	fs := flag.NewFlagSet("tls-server", flag.ContinueOnError)
	peer.register(fs)
	if err := parseFlags(fs, args); err != nil {
		return err
	}
	self, keys, config, err := peer.identities()
	if err != nil {
		return err
	}
	config.NextProtos = []string{"http/1.1"}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	publicKey := base64.StdEncoding.EncodeToString(self.public())
	mux := http.NewServeMux()
	mux.Handle(syncPath, syncServer(self, keys, signedOptions{inner: true}))
	mux.HandleFunc("/ping", func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		json.NewEncoder(&body).Encode(map[string]any{"from": self.name, "t": time.Now().UnixNano(), "public_key": publicKey})
		w.Header().Set("Content-Type", "application/json")
		w.Write(body.Bytes())
	})
	if err := printJSON(stdout, &listening{ln.Addr().String(), self.name, publicKey}); err != nil {
		return err
	}
	srv := &http.Server{Handler: mux, TLSConfig: config}
	go srv.ServeTLS(ln, "", "")
	io.Copy(io.Discard, os.Stdin)
	return srv.Close()
}
