//go:build tools

// Package tools names the program that the lab builds, so that its module is required.
package tools

import _ "github.com/juanfont/headscale/cmd/headscale"
