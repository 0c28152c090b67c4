// Package nullspace holds what is generated from the contract: see nullspace/v1.
// `npm ci` in the checkout brings buf; `go generate` here makes the stubs.
package nullspace

//go:generate ../../node_modules/.bin/buf generate
