// One journey with openapi-fetch, over the types that openapi-typescript generates.
import assert from 'node:assert/strict';
import createClient from 'openapi-fetch';
import type { components, paths } from './generated/openapi-typescript/schema.js';

const calendar = 'openapi-typescript';
const client = createClient<paths>({ baseUrl: process.argv[2]! });

const body = (datetime: string, totalfee: number) => ({ datetime, totalfee, services: [{ id: '456' }], calendar });

async function create(datetime: string, totalfee: number): Promise<components['schemas']['Order']> {
  const { data, error } = await client.POST('/orders', { body: body(datetime, totalfee) });
  assert(data, JSON.stringify(error));
  assert('version' in data);
  return data;
}

async function tagOf(order: components['schemas']['Order']): Promise<string> {
  const { response } = await client.GET('/orders/{order_id}', { params: { path: { order_id: order.id } } });
  const tag = response.headers.get('ETag');
  assert(tag);
  return tag;
}

const first = await create('2031-05-01T09:00:00Z', 100.1);
assert.equal(first.version, 1);

const { error } = await client.POST('/orders', { body: body('2031-05-01T10:00:00Z', 1) });
assert(error);
assert(error.type === '/problems/orders-too-close');
assert.deepEqual(error.conflicts.map((conflict) => conflict.id), [first.id]);
const after = error.nearest.after;
assert.equal(after, '2031-05-01T12:00:00.000Z');
const second = await create(after, 0.07);
const third = await create('2031-05-02T09:00:00Z', 5);

const firstAtOne = { path: { order_id: first.id }, header: { 'If-Match': await tagOf(first) } };
const written = await client.PATCH('/orders/{order_id}', { params: firstAtOne, body: { totalfee: 200.25 } });
assert.equal(written.data?.version, 2);
const stale = await client.PATCH('/orders/{order_id}', { params: firstAtOne, body: { totalfee: 1 } });
assert.equal(stale.error?.type, '/problems/version-mismatch');

const ids: string[] = [];
let cursor: string | null | undefined;
do {
  const { data: page } = await client.GET('/orders', { params: { query: { calendar: [calendar], limit: 1, ...(cursor ? { cursor } : {}) } } });
  assert(page && typeof page === 'object');
  ids.push(...page.items.map((order) => order.id));
  cursor = page.next_cursor;
} while (cursor);
assert.deepEqual(ids, [first.id, second.id, third.id]);

const last = { path: { order_id: third.id }, header: { 'If-Match': await tagOf(third) } };
assert.equal((await client.DELETE('/orders/{order_id}', { params: last })).response.status, 204);
assert.equal((await client.GET('/orders/{order_id}', { params: { path: { order_id: third.id } } })).error?.type, '/problems/not-found');

const { data: summaries } = await client.GET('/fee-summaries', {
  params: { query: { calendar: [calendar], after_version: `${third.id}:2`, wait: 10 } },
});
assert(summaries && typeof summaries === 'object');
assert.equal(summaries.totals.orders, 2);
assert.equal(summaries.totals.totalfee.toFixed(2), '200.32');
