// Package backpressure holds producers back while too much is waiting.
package backpressure
