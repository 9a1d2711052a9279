//go:build unix

package servers

import (
	"testing"

	"github.com/redis/rueidis"
)

func TestMiniredisClockRuns(t *testing.T) {
	t.Parallel()
	s, err := StartMiniredis()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 2 {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		}
	}()
	c := s.Client(t)
	ctx := t.Context()
	if err := c.Do(ctx, c.B().Set().Key("k").Value("v").PxMilliseconds(60).Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := c.Do(ctx, c.B().Get().Key("k").Build()).Error(); err != nil {
		t.Errorf("gone at once: %v", err)
	}
	eventually(t, "expired", func() bool {
		return rueidis.IsRedisNil(c.Do(ctx, c.B().Get().Key("k").Build()).Error())
	})
	if s.Kill() == nil || s.Start() == nil {
		t.Error("miniredis claims that it was killed or started again")
	}
	c.Close()
}

func TestMiniredisNeedsItsPassword(t *testing.T) {
	t.Parallel()
	s, err := StartMiniredis()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop() //nolint:errcheck // other tests check it
	if _, _, err := askRedis(t.Context(), "redis://"+s.URL[len("redis://:")+33:]); err == nil {
		t.Error("it answers without the password")
	}
}
