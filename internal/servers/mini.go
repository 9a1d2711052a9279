package servers

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// mini is miniredis in this process, with its clock running.
type mini struct {
	m    *miniredis.Miniredis
	quit func()
	done chan struct{}
}

// tick is how often miniredis' clock is moved on: otherwise it does not advance, and no key would
// ever expire.
const tick = 20 * time.Millisecond

// StartMiniredis starts miniredis in this process. It keeps nothing on disk, lacks several commands
// and is for the demo, and for the tests that the demo works with it.
func StartMiniredis() (*RedisServer, error) {
	m := miniredis.NewMiniRedis()
	password := newPassword()
	m.RequireAuth(password)
	if err := m.Start(); err != nil {
		return nil, err
	}
	stop := make(chan struct{})
	in := &mini{m: m, done: make(chan struct{}), quit: sync.OnceFunc(func() { close(stop) })}
	go func() {
		defer close(in.done)
		t := time.NewTimer(tick)
		defer t.Stop()
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				m.FastForward(now.Sub(last))
				last = now
				// It looks at every key that expires, and keeps commands waiting meanwhile: let it have a
				// twentieth of the time.
				t.Reset(max(tick, 20*time.Since(now)))
			}
		}
	}()
	s := &RedisServer{URL: fmt.Sprintf("redis://:%s@%s/0", password, m.Addr()), Name: "miniredis", Version: moduleVersion(miniredisModule), in: in}
	s.Chosen = strings.Join(strings.Fields(fmt.Sprintf("%s %s (in this process)", s.Name, s.Version)), " ")
	return s, nil
}

const miniredisModule = "github.com/alicebob/miniredis/v2"

// moduleVersion asks the build, because miniredis reports the version of a Redis.
func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == path {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

func (s *mini) kill() error { return errors.New("miniredis runs in this process and cannot be killed") }
func (s *mini) start() error {
	return errors.New("miniredis runs in this process and cannot be started again")
}
func (s *mini) alive() error { return nil }

func (s *mini) stop() error {
	s.quit()
	<-s.done
	s.m.Close()
	return nil
}
