package staging

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
)

// representable replaces texts of rejects that the database's encoding cannot hold: a record that
// was rejected for such a text must not fail its batch with the same text. What is not ASCII is
// escaped there; the payload is bytes and stays as it is. A database in UTF-8 or SQL_ASCII holds
// every text.
func representable(ctx context.Context, q *pgx.Conn, rejects []Reject) ([]Reject, error) {
	switch q.PgConn().ParameterStatus("server_encoding") {
	case "UTF8", "SQL_ASCII":
		return rejects, nil
	}
	rejects = slices.Clone(rejects)
	for i := range rejects {
		for _, s := range []*string{&rejects[i].Key, &rejects[i].Code, &rejects[i].Reason} {
			holds, err := holdsText(ctx, q, plain(*s))
			if err != nil {
				return nil, err
			}
			if !holds {
				*s = escapeNonASCII(plain(*s))
			}
		}
	}
	return rejects, nil
}

const untranslatable = "22P05"

// holdsText asks the server whether it can convert a text.
func holdsText(ctx context.Context, q *pgx.Conn, s string) (bool, error) {
	if isASCII(s) {
		return true, nil
	}
	_, err := send(ctx, q, do("SAVEPOINT hr_text"), do("SELECT $1::text", s), do("RELEASE SAVEPOINT hr_text"))
	if sqlState(err) != untranslatable {
		return err == nil, err
	}
	_, err = send(ctx, q, do("ROLLBACK TO SAVEPOINT hr_text"), do("RELEASE SAVEPOINT hr_text"))
	return false, err
}

// escapeNonASCII writes é as \u00e9.
func escapeNonASCII(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
	}
	return b.String()
}
