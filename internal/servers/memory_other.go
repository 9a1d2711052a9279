//go:build !linux

package servers

func memoryBase() string { return "" }
