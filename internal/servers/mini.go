package servers

import (
	"fmt"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/rueidis"
)

// mini is miniredis in this process, with its clock running.
type mini struct {
	m    *miniredis.Miniredis
	quit func()
	done chan struct{}
}

// tick is how often miniredis' clock is moved on: it stands still by itself, and no key would ever expire.
const tick = 20 * time.Millisecond

// StartMiniredis starts miniredis in this process. It keeps nothing on disk, lacks several commands and is for
// the demo, and for the tests that the demo works with it.
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
		t := time.NewTicker(tick)
		defer t.Stop()
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			case now := <-t.C:
				m.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return &RedisServer{
		URL:    fmt.Sprintf("redis://:%s@%s/0", password, m.Addr()),
		Name:   "miniredis",
		Chosen: "miniredis (in this process)",
		in:     in,
	}, nil
}

func (s *mini) kill() error { return fmt.Errorf("miniredis runs in this process and cannot be killed") }
func (s *mini) start() error {
	return fmt.Errorf("miniredis runs in this process and cannot be started again")
}
func (s *mini) alive() error { return nil }

func (s *mini) stop() error {
	s.quit()
	<-s.done
	s.m.Close()
	return nil
}

// forMiniredis sets what a client of miniredis needs: it knows no client tracking, and it is one server.
func forMiniredis(opt *rueidis.ClientOption) {
	opt.DisableCache, opt.ForceSingleClient = true, true
}
