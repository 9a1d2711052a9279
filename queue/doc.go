// Package queue is a reliable batched queue on Redis lists. It is being written.
package queue
