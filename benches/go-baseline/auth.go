package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// Names of the authentication headers, in canonical form.
const (
	headerName      = "X-Nara-Name"
	headerTimestamp = "X-Nara-Timestamp"
	headerSignature = "X-Nara-Signature"
)

// maxClockSkew is how far a request's timestamp may be from the server's clock.
const maxClockSkew = 30 * time.Second

// signer is a named identity that can sign.
type signer struct {
	name string
	key  ed25519.PrivateKey
}

// newSigner returns the identity with the given 32-byte seed.
func newSigner(name string, seed [ed25519.SeedSize]byte) *signer {
	return &signer{name: name, key: ed25519.NewKeyFromSeed(seed[:])}
}

// public returns the public key of s.
func (s *signer) public() ed25519.PublicKey {
	return s.key.Public().(ed25519.PublicKey)
}

// sign returns the base64 signature of msg.
func (s *signer) sign(msg []byte) string {
	return base64.StdEncoding.EncodeToString(ed25519.Sign(s.key, msg))
}

// setHeaders sets the three authentication headers in h. The signature covers
// name, timestamp and suffix.
func (s *signer) setHeaders(h http.Header, now time.Time, suffix string) {
	ms := now.UnixMilli()
	h.Set(headerName, s.name)
	h.Set(headerTimestamp, strconv.FormatInt(ms, 10))
	h.Set(headerSignature, s.sign(authText(s.name, ms, suffix)))
}

// signRequest adds the authentication headers to r.
func (s *signer) signRequest(r *http.Request) {
	s.setHeaders(r.Header, time.Now(), r.Method+r.URL.Path)
}

// signResponse adds the authentication headers for body to h.
func (s *signer) signResponse(h http.Header, body []byte) {
	s.setHeaders(h, time.Now(), bodyHash(body))
}

// authText returns the text signed by authentication headers.
func authText(name string, ms int64, suffix string) []byte {
	b := make([]byte, 0, len(name)+20+len(suffix))
	b = append(b, name...)
	b = strconv.AppendInt(b, ms, 10)
	return append(b, suffix...)
}

// bodyHash returns the base64 SHA-256 of body.
func bodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// keyring maps nara names to public keys. It is read-only while in use.
type keyring map[string]ed25519.PublicKey

// add registers the public key of each of signers.
func (k keyring) add(signers ...*signer) {
	for _, s := range signers {
		k[s.name] = s.public()
	}
}

// verifyHeaders checks the authentication headers in h, which must cover
// suffix. A maxAge of zero accepts any timestamp.
func (k keyring) verifyHeaders(h http.Header, suffix string, maxAge time.Duration) error {
	name, stamp, sig := h.Get(headerName), h.Get(headerTimestamp), h.Get(headerSignature)
	if name == "" || stamp == "" || sig == "" {
		return errors.New("missing auth headers")
	}
	ms, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return errors.New("invalid timestamp")
	}
	if maxAge > 0 {
		if age := time.Since(time.UnixMilli(ms)); age.Abs() > maxAge {
			return fmt.Errorf("timestamp too old or in future: %v", age)
		}
	}
	key, ok := k[name]
	if !ok {
		return fmt.Errorf("unknown sender: %s", name)
	}
	raw, err := base64.StdEncoding.DecodeString(sig)
	if err != nil {
		return errors.New("invalid signature encoding")
	}
	if !ed25519.Verify(key, authText(name, ms, suffix), raw) {
		return errors.New("signature verification failed")
	}
	return nil
}

// verifyRequest checks the authentication headers of r.
func (k keyring) verifyRequest(r *http.Request) error {
	return k.verifyHeaders(r.Header, r.Method+r.URL.Path, maxClockSkew)
}

// verifyResponse checks the authentication headers of a response with the given
// header and body. Responses have no freshness rule.
func (k keyring) verifyResponse(h http.Header, body []byte) error {
	return k.verifyHeaders(h, bodyHash(body), 0)
}

// authenticated wraps next so that requests are verified against keys and
// responses are signed by self. Refusals are not signed.
func authenticated(self *signer, keys keyring, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := keys.verifyRequest(r); err != nil {
			http.Error(w, "Authentication failed: "+err.Error(), http.StatusUnauthorized)
			return
		}
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		self.signResponse(w.Header(), rec.body.Bytes())
		w.WriteHeader(rec.status)
		w.Write(rec.body.Bytes())
	})
}

// recorder holds back status and body of a response until it can be signed.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) { r.status = status }

func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
