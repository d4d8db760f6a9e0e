// Command go-baseline is a small, self-contained Go program that does the same
// signing and verification work as a nara mesh node, so that another
// implementation can be measured against it. It uses the standard library only.
//
// Every subcommand prints exactly one JSON object on standard output;
// diagnostics go to standard error.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

const usage = `usage: go-baseline COMMAND [flags]

commands:
  signed     measure signed HTTP round trips over loopback
  sync       measure decoding and verifying a sync response page
  fetch      measure fetching, decoding and verifying a page over loopback
  make-page  write a deterministic sync response page and its key file
  tls-client call a nara over TLS, as a nara with an Ed25519 certificate
  tls-server serve a nara over TLS until standard input ends

Run "go-baseline COMMAND -h" for the flags of a command.
`

func main() {
	err := run(os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "go-baseline:", err)
		os.Exit(1)
	}
}

// run executes one subcommand and writes its JSON result to stdout.
func run(args []string, stdout io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	switch name, rest := args[0], args[1:]; name {
	case "signed":
		return signedCommand(rest, stdout)
	case "sync":
		return syncCommand(rest, stdout)
	case "fetch":
		return fetchCommand(rest, stdout)
	case "make-page":
		return makePageCommand(rest, stdout)
	case "tls-client":
		return tlsClientCommand(rest, stdout)
	case "tls-server":
		return tlsServerCommand(rest, stdout)
	case "-h", "--help", "help":
		fmt.Fprint(os.Stderr, usage)
		return nil
	default:
		fmt.Fprint(os.Stderr, usage)
		return fmt.Errorf("unknown command %q", name)
	}
}

// parseFlags parses args into fs and refuses left-over arguments.
func parseFlags(fs *flag.FlagSet, args []string) error {
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%s: unexpected argument %q", fs.Name(), fs.Arg(0))
	}
	return nil
}

// printJSON writes v as one line of JSON.
func printJSON(w io.Writer, v any) error {
	return json.NewEncoder(w).Encode(v)
}
