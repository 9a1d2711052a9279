package orders_test

import (
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/govalues/decimal"

	"github.com/headrace/headrace/examples/orders"
	"github.com/headrace/headrace/testdata"
)

// with returns a good payload in which the fields of changes (JSON texts) replace others; an empty
// text leaves the field out.
func with(changes map[string]string) []byte {
	fields := map[string]string{
		"order_id": `"o1"`, "customer_id": `"c1"`, "product_id": `"ELEC-001"`, "quantity": `2`,
		"unit_price": `"12.50"`, "currency": `"EUR"`, "zip": `"10001"`, "at": `"2026-01-31T12:00:00Z"`,
	}
	maps.Copy(fields, changes)
	var parts []string
	for name, text := range fields {
		if text != "" {
			parts = append(parts, `"`+name+`":`+text)
		}
	}
	return []byte("{" + strings.Join(parts, ",") + "}")
}

func refused(t *testing.T, err error, code, reason string) {
	t.Helper()
	var got *orders.Invalid
	if !errors.As(err, &got) {
		t.Fatalf("error is %v: want an Invalid with code %s", err, code)
	}
	if got.Code != code || !strings.Contains(got.Reason, reason) {
		t.Errorf("refused as %s %q: want %s with %q", got.Code, got.Reason, code, reason)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	payload := []byte(` {"order_id":"o\u00e91","customer_id":"c1","product_id":"ELEC-001","quantity":2,"unit_price":12.50,
		"currency":"EUR","zip":"M5H 2N2","at":"2026-01-31T12:00:00.1234567+01:00","raw":{"a":[1,"\ud83d\ude00"]},"unknown":{}} `)
	before := string(payload)
	got, err := orders.Decode(payload)
	if err != nil {
		t.Fatal(err)
	}
	want := orders.Order{
		ID: "oé1", CustomerID: "c1", ProductID: "ELEC-001", Quantity: 2, UnitPrice: decimal.MustParse("12.50"), Currency: "EUR",
		Zip: "M5H 2N2", At: time.Date(2026, 1, 31, 11, 0, 0, 123456000, time.UTC), Raw: json.RawMessage(`{"a":[1,"\ud83d\ude00"]}`),
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(decimal.Decimal{})); diff != "" {
		t.Error(diff)
	}
	if orders.ID(got) != "oé1" {
		t.Errorf("ID is %q", orders.ID(got))
	}
	if string(payload) != before {
		t.Error("Decode wrote into the payload")
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", orders.MaxText+1)
	for _, c := range []struct {
		field, text  string
		code, reason string
	}{
		{"order_id", ``, orders.CodeMissingID, "order_id"},
		{"order_id", `""`, orders.CodeMissingID, "order_id"},
		{"order_id", `null`, orders.CodeMissingID, "order_id"},
		{"order_id", `7`, orders.CodeMalformedJSON, "order_id is a JSON number, must be a string"},
		{"order_id", `"` + long + `"`, orders.CodeBadField, "order_id is 65 bytes: at most 64"},
		{"order_id", `"a\u0000b"`, orders.CodeBadField, `order_id is "a\x00b"`},
		{"order_id", "\"a\x01b\"", orders.CodeMalformedJSON, "byte"},
		{"order_id", "\"a\xffb\"", orders.CodeMalformedJSON, "UTF-8"},
		{"customer_id", ``, orders.CodeMissingField, "customer_id"},
		{"product_id", ``, orders.CodeMissingField, "product_id"},
		{"currency", ``, orders.CodeMissingField, "currency"},
		{"zip", ``, orders.CodeMissingField, "zip"},
		{"zip", `"1\n2"`, orders.CodeBadField, "zip"},
		{"at", ``, orders.CodeMissingField, "at"},
		{"at", `"yesterday"`, orders.CodeBadTime, `at is "yesterday"`},
		{"at", `"1969-12-31T23:59:59Z"`, orders.CodeBadTime, "1970 to 2199"},
		{"at", `"2200-01-01T00:00:00Z"`, orders.CodeBadTime, "1970 to 2199"},
		{"at", `5`, orders.CodeMalformedJSON, "at is a JSON number"},
		{"quantity", ``, orders.CodeZeroQuantity, "1 to 100000"},
		{"quantity", `0`, orders.CodeZeroQuantity, "1 to 100000"},
		{"quantity", `-1`, orders.CodeBadQuantity, "quantity is -1"},
		{"quantity", `100001`, orders.CodeBadQuantity, "quantity is 100001"},
		{"quantity", `1.5`, orders.CodeBadQuantity, "number 1.5"},
		{"quantity", `"2"`, orders.CodeBadQuantity, "string"},
		{"quantity", `99999999999`, orders.CodeBadQuantity, "99999999999"},
		{"unit_price", ``, orders.CodeBadPrice, "missing"},
		{"unit_price", `null`, orders.CodeBadPrice, "null"},
		{"unit_price", `-1`, orders.CodeBadPrice, "-1"},
		{"unit_price", `1e2`, orders.CodeBadPrice, "1e2"},
		{"unit_price", `"1e2"`, orders.CodeBadPrice, "1e2"},
		{"unit_price", `""`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `"."`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `"1."`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `".5"`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `"1.2.3"`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `"1,50"`, orders.CodeBadPrice, "unit_price"},
		{"unit_price", `"NaN"`, orders.CodeBadPrice, "NaN"},
		{"unit_price", `1234567`, orders.CodeBadPrice, "at most 6 digits before"},
		{"unit_price", `0.12345`, orders.CodeBadPrice, "4 after"},
		{"unit_price", `0.1000000000000000055511151231257827`, orders.CodeBadPrice, "4 after"},
		{"unit_price", `[1]`, orders.CodeBadPrice, "[1]"},
	} {
		o, err := orders.Decode(with(map[string]string{c.field: c.text}))
		refused(t, err, c.code, c.reason)
		if c.field != "order_id" && c.code != orders.CodeMalformedJSON && c.code != orders.CodeBadQuantity && o.ID != "o1" {
			t.Errorf("%s %s: the refused order lost its id", c.field, c.text)
		}
	}
	for text, reason := range map[string]string{
		"": "unexpected end", "[]": "array", `"x"`: "string", "{": "byte 1", `{"order_id":"a",}`: "byte 17",
		`{} {}`: "byte 4", "{}\x00": "byte 3",
	} {
		_, err := orders.Decode([]byte(text))
		refused(t, err, orders.CodeMalformedJSON, reason)
	}
	if _, err := orders.Decode([]byte("null")); err == nil {
		t.Error("null is no order")
	}
}

func TestDecodeLimits(t *testing.T) {
	t.Parallel()
	bare := len(with(map[string]string{"raw": `""`}))
	fill := func(n int) []byte { return with(map[string]string{"raw": `"` + strings.Repeat("x", n-bare) + `"`}) }
	if _, err := orders.Decode(fill(orders.MaxPayload)); err != nil {
		t.Errorf("a record of exactly MaxPayload: %v", err)
	}
	_, err := orders.Decode(fill(orders.MaxPayload + 1))
	refused(t, err, orders.CodeTooLarge, "65537 bytes: at most 65536")
	for _, text := range []string{`0`, `"0.0001"`, `999999.9999`, `"007"`} {
		if _, err := orders.Decode(with(map[string]string{"unit_price": text})); err != nil {
			t.Errorf("unit_price %s: %v", text, err)
		}
	}
	o, err := orders.Decode(with(map[string]string{"raw": `null`}))
	if err != nil || o.Raw != nil {
		t.Errorf("raw null is %q, %v: want none", o.Raw, err)
	}
}

// TestSample checks the sample file against its description.
func TestSample(t *testing.T) {
	t.Parallel()
	catalog := orders.SampleCatalog()
	seen, codes := map[string]int{}, map[string]int{}
	for line := range strings.Lines(testdata.OrdersJSONL) {
		o, err := orders.Decode([]byte(line))
		if err == nil {
			_, err = orders.Enrich(o, catalog)
		}
		var refusal *orders.Invalid
		switch {
		case errors.As(err, &refusal):
			codes[refusal.Code]++
		case err != nil:
			t.Fatal(err)
		default:
			seen[o.ID]++
		}
	}
	if len(seen) != 12 || seen["ord-0002"] != 2 || seen["ord-0008"] != 2 {
		t.Errorf("good orders: %v", seen)
	}
	want := map[string]int{
		orders.CodeUnknownProduct: 1, orders.CodeUnknownCurrency: 1, orders.CodeUnknownZip: 1, orders.CodeZeroQuantity: 1,
		orders.CodeBadPrice: 1, orders.CodeMissingID: 1, orders.CodeMalformedJSON: 1,
	}
	if diff := cmp.Diff(want, codes); diff != "" {
		t.Error(diff)
	}
}

// FuzzDecode: no input makes it panic; what it accepts is what encoding/json reads, and comes back
// the same when it is written and read again.
func FuzzDecode(f *testing.F) {
	for line := range strings.Lines(testdata.OrdersJSONL) {
		f.Add([]byte(line))
	}
	f.Add(with(map[string]string{"raw": `{"a":[1e9,-0.5,true,null,"\u0041\ud83d\ude00\n"]}`}))
	f.Add(with(map[string]string{"raw": `"\u0000"`}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		before := string(payload)
		o, err := orders.Decode(payload)
		if string(payload) != before {
			t.Fatal("Decode wrote into the payload")
		}
		if err != nil {
			var refusal *orders.Invalid
			if !errors.As(err, &refusal) || refusal.Code == "" || refusal.Reason == "" {
				t.Fatalf("not a reasoned refusal: %#v", err)
			}
			return
		}
		if !json.Valid(payload) {
			t.Fatal("accepted what is not JSON")
		}
		again, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		back, err := orders.Decode(again)
		if len(again) > orders.MaxPayload {
			return // escapes made it longer
		}
		if err != nil {
			t.Fatalf("refused what it had accepted, %s: %v", again, err)
		}
		if !sameJSON(o.Raw, back.Raw) {
			t.Fatalf("raw was %s and came back as %s", o.Raw, back.Raw)
		}
		o.Raw, back.Raw = nil, nil
		if !reflect.DeepEqual(o, back) {
			t.Fatalf("was %+v and came back as %+v", o, back)
		}
	})
}

func sameJSON(a, b json.RawMessage) bool {
	read := func(text json.RawMessage) (v any) {
		if text == nil {
			return nil
		}
		d := json.NewDecoder(strings.NewReader(string(text)))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return err
		}
		return v
	}
	return reflect.DeepEqual(read(a), read(b))
}
