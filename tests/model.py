"""A model of the service in plain Python: the rule, orders, their changes, and what fee summaries must be.

It shares no code with the service, checks everything one by one, and is slow and obvious.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.calendar_model import Calendars

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2199, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)


ImportedRow = tuple[int, datetime, Decimal, tuple[int, ...], str, str | None, dict[str, str], str]
"""An order of a file: its id (0: none), datetime, fee, services, calendar, reference, metadata and status."""


def fee_shares(fee: Decimal, service_ids: Iterable[int]) -> dict[int, Decimal]:
    """Divide a fee cent by cent, in turns, beginning with the lowest service id."""
    ids = sorted(service_ids)
    each, odd = divmod(int(fee * 100), len(ids))
    return {service: Decimal(each + (1 if place < odd else 0)) / 100 for place, service in enumerate(ids)}


@dataclass(frozen=True)
class ModelOrder:
    """An order as a caller knows it."""

    id: int
    at: datetime
    fee: Decimal
    services: tuple[tuple[int, str], ...]
    calendar: str
    reference: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    status: str = "booked"
    version: int = 1
    had: frozenset[int] = field(default=frozenset(), compare=False)
    """Every service that it ever had: archived ones among them may be kept or taken back."""


@dataclass(frozen=True)
class Answer:
    """What the service must answer: the status, a problem's slug, and what the problem says."""

    status: int
    problem: str | None = None
    conflicts: tuple[tuple[int, datetime], ...] = ()
    before: datetime | None = None
    after: datetime | None = None


@dataclass
class Model:
    """The service's state, and its answer to each command."""

    names: dict[int, str]
    archived: set[int] = field(default_factory=set)
    orders: dict[int, ModelOrder] = field(default_factory=dict)
    claimed: set[int] = field(default_factory=set)
    places: dict[tuple[int, datetime, str], int] = field(default_factory=dict)
    """The import that placed an order at a datetime on a calendar."""
    last_versions: dict[int, int] = field(default_factory=dict)
    """Of deleted orders."""
    calendars: Calendars = field(default_factory=Calendars)
    attribution: tuple[str, str | None] = ("anyone", None)
    """Who sends the next commands, and why."""
    history: dict[int, list[tuple[str, str, str | None]]] = field(default_factory=lambda: defaultdict(list))
    """Of each order, also after its deletion: what each change was, who made it, and why."""

    @property
    def changes(self) -> int:
        """How many changes there are."""
        return sum(map(len, self.history.values()))

    def record(self, order_id: int, participle: str) -> None:
        """Add a change to an order's history."""
        self.history[order_id].append((f"order.{participle}", *self.attribution))

    def import_of(self, order: ModelOrder) -> int | None:
        """Return the import that an order is one of: it is where that import placed it."""
        return self.places.get((order.id, order.at, order.calendar))

    def booked_on(self, calendar: str, aside: int | None = None) -> list[ModelOrder]:
        """Return the booked orders on a calendar, but for one."""
        return [
            order
            for order in self.orders.values()
            if order.status == "booked" and order.calendar == calendar and order.id != aside
        ]

    def conflicts(self, at: datetime, calendar: str, aside: int | None) -> tuple[tuple[int, datetime], ...]:
        """List the conflicting orders: not those of the import that placed the order itself there."""
        own = self.places.get((aside or 0, at, calendar))
        return tuple(
            sorted(
                (
                    (order.id, order.at)
                    for order in self.booked_on(calendar, aside)
                    if abs(order.at - at) < self.calendars.spacing(calendar)
                    and (own is None or self.import_of(order) != own)
                ),
                key=lambda conflict: (conflict[1], conflict[0]),
            )
        )

    def too_close(self, at: datetime, calendar: str, aside: int | None) -> Answer | None:
        """Refuse a datetime that is not free, naming the nearest that are; None when it is free."""
        conflicts = self.conflicts(at, calendar, aside)
        if not conflicts:
            return None
        # The nearest free datetimes are exactly the spacing from some order.
        spacing = self.calendars.spacing(calendar)
        taken = [order.at for order in self.booked_on(calendar, aside)]
        # Where the order itself may return to is not free for others, so it is not named.
        free = [
            candidate
            for other in taken
            for candidate in (other - spacing, other + spacing)
            if EARLIEST <= candidate <= LATEST and all(abs(o - candidate) >= spacing for o in taken)
        ]
        return Answer(
            409,
            "orders-too-close",
            conflicts,
            max((candidate for candidate in free if candidate < at), default=None),
            min((candidate for candidate in free if candidate > at), default=None),
        )

    def not_orderable(self, services: Iterable[int], already: Iterable[int] = ()) -> bool:
        """Whether one of the services is unknown, or archived and not on the order yet."""
        return any(s not in self.names or (s in self.archived and s not in already) for s in services)

    def named(self, services: Iterable[int]) -> tuple[tuple[int, str], ...]:
        """Return services with their current names."""
        return tuple((service, self.names[service]) for service in sorted(services))

    def reference_taken(self, reference: str | None, aside: int | None = None) -> Answer | None:
        """Refuse a reference that another order has; None when it is free."""
        if reference is not None and any(
            order.reference == reference and order.id != aside for order in self.orders.values()
        ):
            return Answer(409, "reference-taken")
        return None

    def create(
        self,
        order_id: int | None,
        at: datetime,
        services: Sequence[int],
        calendar: str,
        reference: str | None,
    ) -> Answer:
        """Answer a POST; the order itself is added by ``store``, under the id it got."""
        if order_id is not None and order_id in self.claimed:
            return Answer(409, "order-id-taken")
        if self.not_orderable(services):
            return Answer(422, "validation-failed")
        taken = self.reference_taken(reference)
        if taken is None and self.calendars.cannot_be_made(calendar):
            return Answer(422, "validation-failed")
        return taken or self.too_close(at, calendar, None) or Answer(201)

    def store(
        self,
        order_id: int,
        at: datetime,
        fee: Decimal,
        services: Sequence[int],
        calendar: str,
        *,
        reference: str | None,
        metadata: dict[str, str],
        status: str = "booked",
    ) -> None:
        """Add an order that was accepted."""
        self.claimed.add(order_id)
        self.calendars.use(calendar)
        version = self.last_versions.get(order_id, 0) + 1
        self.orders[order_id] = ModelOrder(
            order_id,
            at,
            fee,
            self.named(services),
            calendar,
            reference,
            metadata,
            status,
            version,
            had=frozenset(services),
        )
        self.record(order_id, "created")

    def store_imported(self, number: int, order_id: int, order: ImportedRow) -> None:
        """Add an order of the n-th import; it rejoins an earlier one that placed it there."""
        _, at, fee, services, calendar, reference, metadata, status = order
        self.places.setdefault((order_id, at, calendar), number)
        more: dict[str, Any] = {"reference": reference, "metadata": metadata, "status": status}
        self.store(order_id, at, fee, services, calendar, **more)

    def wanted(self, order_id: int, fields: Mapping[str, Any]) -> ModelOrder | Answer:
        """Return what a PATCH makes of an order, or a PUT (with ``all_metadata``); or why it is refused."""
        order = self.orders.get(order_id)
        if order is None:
            return Answer(404, "not-found")
        services = fields.get("services")
        if order.status == "cancelled" and set(services or ()) == {service for service, _ in order.services}:
            services = None  # they stay as they were named
        if services is not None and self.not_orderable(services, order.had):
            return Answer(422, "validation-failed")
        merged = {**order.metadata, **fields.get("metadata", {})}
        changed = replace(
            order,
            at=fields.get("at", order.at),
            calendar=fields.get("calendar", order.calendar),
            fee=fields.get("fee", order.fee),
            services=order.services if services is None else self.named(services),
            reference=fields.get("reference", order.reference),
            metadata=fields.get(
                "all_metadata", {key: value for key, value in merged.items() if value is not None}
            ),
        )
        if order.status == "cancelled" and changed != replace(
            order, reference=changed.reference, metadata=changed.metadata
        ):
            return Answer(409, "order-cancelled")
        if self.calendars.cannot_be_made(changed.calendar):
            return Answer(422, "validation-failed")
        return changed

    def moves(self, changed: ModelOrder) -> bool:
        """Whether an order is to be at another place."""
        order = self.orders[changed.id]
        return (changed.at, changed.calendar) != (order.at, order.calendar)

    def write(self, changed: ModelOrder) -> None:
        """Make an order what it is to become. A write that changes nothing is no change."""
        order = self.orders[changed.id]
        if changed != order:
            had = order.had | {service for service, _ in changed.services}
            self.orders[order.id] = replace(changed, version=order.version + 1, had=had)
            self.calendars.use(changed.calendar)
            became = "cancelled" if changed.status == "cancelled" else "reinstated"
            self.record(order.id, "updated" if changed.status == order.status else became)

    def update(self, order_id: int, fields: Mapping[str, Any]) -> Answer:
        """Answer a PATCH or a PUT; see ``wanted``."""
        changed = self.wanted(order_id, fields)
        if isinstance(changed, Answer):
            return changed
        refused = self.moves(changed) and self.too_close(changed.at, changed.calendar, order_id)
        refused = refused or self.reference_taken(changed.reference, order_id)
        if refused:
            return refused
        self.write(changed)
        return Answer(200)

    def change_status(self, order_id: int, status: str) -> Answer:
        """Answer a cancellation or a reinstatement."""
        order = self.orders.get(order_id)
        if order is None:
            return Answer(404, "not-found")
        if status == "booked" and order.status == "cancelled":
            refused = self.too_close(order.at, order.calendar, order_id)
            if refused:
                return refused
        self.write(replace(order, status=status))
        return Answer(200)

    def update_many(self, changes: Mapping[int, Mapping[str, Any]]) -> dict[int, Answer]:
        """Write all orders, by id, if none is refused; return the refusals by index.

        All that move leave their places first. Where others stay, or have arrived already, is not free.
        """
        wanted = {n: self.wanted(order_id, fields) for n, (order_id, fields) in enumerate(changes.items())}
        refusals = {n: refused for n, refused in wanted.items() if isinstance(refused, Answer)}
        pending = {n: changed for n, changed in wanted.items() if isinstance(changed, ModelOrder)}
        before = dict(self.orders)
        moving = [n for n, changed in pending.items() if self.moves(changed)]
        keeping = before.keys() - {o.id for o in pending.values() if o.reference != before[o.id].reference}
        taken = {before[order_id].reference for order_id in keeping} - {None}
        for n in moving:
            del self.orders[pending[n].id]
        for n in [n for n, o in pending.items() if o.id not in keeping and o.reference in taken]:
            refusals[n] = Answer(409, "reference-taken")
            del pending[n]
        blocked = []
        for n, changed in pending.items():
            if n in moving and self.conflicts(changed.at, changed.calendar, changed.id):
                blocked.append(n)
            else:
                self.orders[changed.id] = changed
        for n in blocked:
            refused = self.too_close(pending[n].at, pending[n].calendar, pending[n].id)
            assert refused
            refusals[n] = refused
        self.orders = before
        for changed in () if refusals else pending.values():
            self.write(changed)
        return refusals

    def end_many(self, how: str, order_ids: Sequence[int]) -> dict[int, Answer]:
        """Cancel or delete all orders, or none; return the refusals by index."""
        unknown = [n for n, order_id in enumerate(order_ids) if order_id not in self.orders]
        for order_id in () if unknown else order_ids:
            if how == "cancel":
                self.change_status(order_id, "cancelled")
            else:
                self.delete(order_id)
        return dict.fromkeys(unknown, Answer(404, "not-found"))

    def delete(self, order_id: int) -> Answer:
        """Answer a DELETE."""
        order = self.orders.pop(order_id, None)
        if order is None:
            return Answer(404, "not-found")
        self.last_versions[order_id] = order.version + 1
        self.record(order_id, "deleted")
        return Answer(204)

    def faults_of_import(self, orders: Sequence[ImportedRow]) -> set[str]:
        """Return the faults of an import, as places in its file; empty if it is accepted."""
        faults = set()
        # Where an order is stored already, its id is taken and its place too.
        imports = [
            None if order_id in self.orders else self.places.get((order_id, at, calendar))
            for order_id, at, _, _, calendar, *_ in orders
        ]
        for index, (order_id, at, _, services, calendar, reference, _, status) in enumerate(orders):
            earlier = [other[5] for other in orders[:index]]
            if reference is not None and (self.reference_taken(reference) or reference in earlier):
                faults.add(f"orders[{index}].reference")
            was_imported = any(place[0] == order_id for place in self.places)
            if order_id in self.orders or (order_id in self.claimed and not was_imported):
                faults.add(f"orders[{index}].id")
            faults |= {
                f"orders[{index}].services[{place}].id"
                for place, service in enumerate(services)
                if self.not_orderable([service])
            }
            if status == "cancelled":  # it takes no place
                continue
            own = imports[index]
            if any(
                abs(order.at - at) < self.calendars.spacing(calendar)
                and (own is None or self.import_of(order) != own)
                for order in self.booked_on(calendar)
            ):
                faults.add(f"orders[{index}].datetime")
            # Of two orders of the file that will not be of one import, the later one is named.
            if any(
                other_calendar == calendar
                and at - other_at < self.calendars.spacing(calendar)
                and (other_at, other) < (at, index)
                and imports[other] != own
                and other_status == "booked"
                for other, (_, other_at, _, _, other_calendar, _, _, other_status) in enumerate(orders)
            ):
                faults.add(f"orders[{index}].datetime")
        not_made = {
            f"orders[{index}].calendar"
            for index, order in enumerate(orders)
            if self.calendars.cannot_be_made(order[4])
        }
        if not_made:  # nothing can be compared with the orders on a calendar that there is not
            return not_made | {
                place for place in faults if place.endswith("].id") and "services" not in place
            }
        return faults

    def archive(self, service: int) -> Answer:
        """Answer the DELETE of a service."""
        if service not in self.names or service in self.archived:
            return Answer(404, "not-found")
        self.archived.add(service)
        return Answer(204)

    def rename(self, service: int, name: str) -> Answer:
        """Answer the PUT of a service. Orders keep the name that they were written with."""
        others = self.names.keys() - self.archived - {service}
        if service not in self.archived and any(
            self.names[other].lower() == name.lower() for other in others
        ):
            return Answer(409, "service-name-taken")
        self.names[service] = name
        return Answer(200)

    def summaries(self, by: str, period: str) -> dict[tuple[date, int | str | None], tuple[int, Decimal]]:
        """Sum orders and fees per period, and per service id or calendar if asked."""
        sums: dict[tuple[date, int | str | None], tuple[int, Decimal]] = defaultdict(lambda: (0, Decimal(0)))
        for order in self.orders.values():
            if order.status == "cancelled":
                continue
            day = order.at.date()
            start = {
                "day": day,
                "week": day - timedelta(days=day.weekday()),
                "month": day.replace(day=1),
                "year": day.replace(month=1, day=1),
            }[period]
            parts: dict[int | str | None, Decimal] = {}
            if by == "service":
                shares = fee_shares(order.fee, [service for service, _ in order.services])
                parts.update((service, share) for service, share in shares.items())
            else:
                parts[order.calendar if by == "calendar" else None] = order.fee
            for part, share in parts.items():
                count, total = sums[start, part]
                sums[start, part] = (count + 1, total + share)
        return dict(sums)
