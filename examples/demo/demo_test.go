package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/internal/servers/servertest"
)

func TestMain(m *testing.M) {
	if os.Getenv("DEMO_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	servertest.Main(m)
}

// The whole job, with everything that can happen to an order.
func TestDemo(t *testing.T) {
	t.Setenv("REDIS_URL", servertest.RedisURL(t))
	t.Setenv("DATABASE_URL", servertest.PostgresURL(t))
	var out bytes.Buffer
	o := options{orders: 5000, duplicates: 0.1, bad: 0.02, workers: 3, batch: 300, seed: 42}
	if err := run(t.Context(), &out, o); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"taken 5000 = acked 5000 + in flight 0 + dead 0", "✓ duplicates 500", "✓ rejected 100",
		orders.CodeUnknownProduct, orders.CodeUnknownCurrency, orders.CodeZeroQuantity, orders.CodeMalformedJSON, orders.CodeTooLarge,
		"sales_hourly", "product_performance_daily", "shipping_zone_stats", "sustained", "Every record is accounted for.",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "✗") {
		t.Errorf("something is off:\n%s", out.String())
	}
}

func TestFlagsNameTheirLimits(t *testing.T) {
	for args, want := range map[string]string{
		"-orders 0":                  "-orders is 0: must be from 1 to 100000000",
		"-duplicates 1.5":            "-duplicates is 1.5: must be from 0 to 0.9",
		"-duplicates NaN":            "-duplicates is NaN: must be from 0 to 0.9",
		"-bad -1":                    "-bad is -1: must be from 0 to 0.9",
		"-bad 0.6 -duplicates 0.6":   "at most 1",
		"-workers 65":                "-workers is 65: must be from 1 to 64",
		"-batch 0":                   "-batch is 0: must be from 1 to 100000",
		"-orders 5 whatever":         `unexpected argument "whatever"`,
		"-orders many -duplicates 0": "invalid value",
	} {
		if _, err := parse(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", args, err, want)
		}
	}
}

// A server that cannot be reached: one line with host and database, no password, exit code 1, soon.
func TestUnreachableServer(t *testing.T) {
	redis, pg := servertest.RedisURL(t), servertest.PostgresURL(t)
	for name, c := range map[string]struct {
		redis, pg string
		want      []string
	}{
		"redis":    {"redis://:secret@127.0.0.1:1/0", pg, []string{"127.0.0.1:1", "REDIS_URL"}},
		"postgres": {redis, "postgres://me:secret@127.0.0.1:1/shop", []string{"127.0.0.1", "shop", "DATABASE_URL"}},
		"nonsense": {redis, "postgres://me:secret@127.0.0.1:notaport/shop", []string{"DATABASE_URL"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0])
			cmd.Env = append(os.Environ(), "DEMO_TEST_MAIN=1", "REDIS_URL="+c.redis, "DATABASE_URL="+c.pg)
			start := time.Now()
			out, err := cmd.CombinedOutput()
			took, text := time.Since(start), strings.TrimSpace(string(out))
			if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("exit code %d, %v", cmd.ProcessState.ExitCode(), err)
			}
			if took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			if strings.Contains(text, "secret") || strings.Contains(text, "\n") {
				t.Errorf("want one line without the password, got:\n%s", text)
			}
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("%q lacks %q", text, w)
				}
			}
		})
	}
}
