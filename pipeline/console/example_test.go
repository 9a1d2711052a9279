package console_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/headrace/headrace/pipeline/console"
)

// A console below /headrace/ that anna may act with, and that others read.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	flow, redis, postgres, cleanup := readings(ctx)
	defer cleanup()

	pipeline := console.Of(flow, redis, postgres)
	pipeline.Name = "readings"
	h, err := console.New(console.Config{
		Pipelines: []console.Pipeline{pipeline},
		Authorize: func(r *http.Request, a console.Action) (who string, err error) {
			if user, _, _ := r.BasicAuth(); user == "anna" { // check the password, too
				return user, nil
			}
			return "", errors.New("only anna may " + string(a.Kind))
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	mux := http.NewServeMux()
	mux.Handle("/headrace/", http.StripPrefix("/headrace", h))

	get := func(method, path, body, user string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(user, "")
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	page := get(http.MethodGet, "/headrace/p/readings/", "", "bert")
	fmt.Println(page.Code, strings.Contains(page.Body.String(), "Nothing is lost and nothing is stuck."))
	fmt.Println(get(http.MethodPost, "/headrace/p/readings/do", "action=pause", "bert").Code)
	fmt.Println(get(http.MethodPost, "/headrace/p/readings/do", "action=pause", "anna").Code)
	// Output:
	// 200 true
	// 403
	// 200
}

// The checks of the Health page, for a program of its own.
func ExampleCheckRedis() {
	ctx := context.Background()
	_, redis, postgres, cleanup := readings(ctx)
	defer cleanup()

	checks, err := console.CheckRedis(ctx, redis)
	if err != nil {
		fmt.Println(err)
		return
	}
	more, err := console.CheckPostgres(ctx, postgres)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, c := range append(checks, more...) {
		if c.Name == "Redis role" || c.Name == "Postgres role" {
			fmt.Println(c.OK, c.Name, c.Found)
		}
	}
	// Output:
	// true Redis role master
	// true Postgres role primary
}

// A console of names alone: a program that operates pipelines knows no row type. Run keeps the
// charts filled while no page is open.
func ExampleOpen() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	flow, redis, postgres, cleanup := readings(ctx)
	defer cleanup()

	pipeline, err := console.Open(ctx, redis, postgres, console.Names{Queue: flow.Queue.Name(), Table: "readings"})
	if err != nil {
		fmt.Println(err)
		return
	}
	h, err := console.New(console.Config{Pipelines: []console.Pipeline{pipeline}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer h.Close()
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()

	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/index.json", http.NoBody))
	fmt.Println(w.Code, w.Header().Get("Content-Type"))
	cancel()
	fmt.Println(<-done)
	// Output:
	// 200 application/json; charset=utf-8
	// <nil>
}
