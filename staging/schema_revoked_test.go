package staging_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/headrace/headrace/internal/servers/servertest"
	"github.com/headrace/headrace/staging"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A privilege that is revoked while programs run is named with the GRANT that helps, by each call
// that needs it, and that GRANT does help.
func TestRevokedWhileRunning(t *testing.T) {
	t.Parallel()
	pool := servertest.Postgres(t)
	exec(t, pool, serialTable)
	exec(t, pool, `CREATE TABLE "Detail" (id bigint PRIMARY KEY, v text)`)
	newTable(t, pool, "Serial", staging.Config[serial]{Key: []string{"id"}})
	newTable(t, pool, "Detail", staging.Config[serial]{Key: []string{"id"}})
	user, role := login(t, pool)
	exec(t, pool, "GRANT USAGE ON SCHEMA public TO "+role)
	open := func(target string) *staging.Table[serial] {
		for _, r := range []staging.Role{staging.RoleWorker, staging.RolePromoter, staging.RoleReader} {
			grants, err := staging.Grants(t.Context(), pool, target, serialConfig(r), role)
			if err != nil {
				t.Fatal(err)
			}
			exec(t, pool, grants)
		}
		return newTable(t, user, target, serialConfig(staging.RoleAll))
	}
	tab, detail := open("Serial"), open("Detail")
	rows := func(s serial) []serial { return []serial{s} }
	group := staging.Group(staging.Into(tab, rows), staging.Into(detail, rows))
	if err := group.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	one := func() staging.Load[serial] { next++; return load(serial{next, "x"}) }
	for what, c := range map[string]struct {
		revoked string // what REVOKE takes
		call    func(context.Context) error
	}{
		"stage": {`INSERT ON TABLE "public"."Serial_registry_a", "public"."Serial_registry_b"`, func(ctx context.Context) error {
			_, err := tab.Stage(ctx, one())
			return err
		}},
		"promote": {`UPDATE ON TABLE "public"."Serial_control"`, func(ctx context.Context) error {
			if _, err := tab.Stage(ctx, one()); err != nil {
				return err
			}
			_, err := tab.Promote(ctx, staging.PromoteOptions{})
			return err
		}},
		"promote into the target": {`INSERT ON TABLE "public"."Serial"`, func(ctx context.Context) error {
			if _, err := tab.Stage(ctx, one()); err != nil {
				return err
			}
			_, err := tab.Promote(ctx, staging.PromoteOptions{})
			return err
		}},
		"void":    {`INSERT, UPDATE ON TABLE "public"."Serial_ledger"`, func(ctx context.Context) error { _, err := tab.Void(ctx, one().Batch); return err }},
		"fates":   {`SELECT ON TABLE "public"."Serial_ledger"`, func(ctx context.Context) error { _, err := tab.Fates(ctx, []string{one().Batch.ID}); return err }},
		"books":   {`SELECT ON TABLE "public"."Serial_ledger"`, func(ctx context.Context) error { _, err := tab.BooksSince(ctx, time.Time{}); return err }},
		"epoch":   {`SELECT ON TABLE "public"."Serial_epoch"`, func(ctx context.Context) error { _, err := tab.Epoch(ctx); return err }},
		"rejects": {`SELECT ON TABLE "public"."Serial_rejects"`, func(ctx context.Context) error { _, err := tab.Rejects(ctx, staging.RejectFilter{}); return err }},
		"schema":  {`USAGE ON SCHEMA "public"`, func(ctx context.Context) error { _, err := tab.Fates(ctx, []string{one().Batch.ID}); return err }},
		"group": {`INSERT ON TABLE "public"."Detail_staging_a", "public"."Detail_staging_b"`, func(ctx context.Context) error {
			_, err := group.Stage(ctx, one())
			return err
		}},
	} {
		refused(t, what, pool, role, c.revoked, c.call)
	}
}

// refused revokes a privilege, expects the GRANT in the error of a call, and runs it.
func refused(t *testing.T, what string, pool *pgxpool.Pool, role, revoked string, call func(context.Context) error) {
	t.Helper()
	exec(t, pool, "REVOKE "+revoked+" FROM PUBLIC, "+role)
	err := call(t.Context())
	if !errors.Is(err, staging.ErrPrivilege) {
		t.Fatalf("%s: got %v, want ErrPrivilege", what, err)
	}
	_, fix, found := strings.Cut(err.Error(), `; role "`+role+`" needs: `)
	if !found || !strings.HasPrefix(fix, "GRANT ") {
		t.Fatalf("%s: %v names no GRANT", what, err)
	}
	exec(t, pool, fix)
	if err := call(t.Context()); err != nil {
		t.Errorf("%s: after %s: %v", what, fix, err)
	}
}
