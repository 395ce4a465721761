"""The same API with FastAPI and SQLAlchemy 2, as their tutorials write it.

uvicorn --workers 2 app:app
"""

import os
from datetime import datetime
from decimal import Decimal
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import DateTime, Numeric, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLAlchemy's dialect has a prefix, and takes a socket's folder as `host`, as asyncpg does.
engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://"), pool_size=8, max_overflow=0
)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    type_annotation_map = {datetime: DateTime(timezone=True)}


class Service(Base):
    __tablename__ = "service"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    datetime: Mapped[datetime]
    totalfee: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    services: Mapped[list] = mapped_column(JSONB)
    calendar: Mapped[str]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())


class OrderChange(Base):
    __tablename__ = "order_change"

    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    order_id: Mapped[int]
    order_state: Mapped[dict] = mapped_column(JSONB)


class ServiceReference(BaseModel):
    id: str


class ServiceOut(BaseModel):
    id: str
    name: str


class OrderIn(BaseModel):
    datetime: datetime
    totalfee: Decimal = Field(ge=0, max_digits=12, decimal_places=2)
    services: list[ServiceReference] = Field(min_length=1, max_length=50)
    calendar: str = "default"


class OrderOut(BaseModel):
    model_config = ConfigDict(from_attributes=True, coerce_numbers_to_str=True)

    id: str
    datetime: datetime
    totalfee: float
    services: list[ServiceOut]
    calendar: str
    version: int
    created_at: datetime
    updated_at: datetime


class OrderList(BaseModel):
    items: list[OrderOut]


async def get_session():
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
app = FastAPI()


@app.post("/orders", status_code=201)
async def create_order(body: OrderIn, session: Session) -> OrderOut:
    ids = [int(service.id) for service in body.services]
    services = (await session.scalars(select(Service).where(Service.id.in_(ids)).order_by(Service.id))).all()
    if len(services) != len(ids):
        raise HTTPException(422, "A service is unknown.")
    order = Order(
        datetime=body.datetime,
        totalfee=body.totalfee,
        services=[{"id": str(service.id), "name": service.name} for service in services],
        calendar=body.calendar,
    )
    session.add(order)
    try:
        await session.flush()
    except IntegrityError:
        await session.rollback()
        raise HTTPException(409, "Another order is less than three hours away.") from None
    answer = OrderOut.model_validate(order)
    session.add(
        OrderChange(type="order.created", order_id=order.id, order_state=answer.model_dump(mode="json"))
    )
    await session.commit()
    return answer


@app.get("/orders/{order_id}")
async def get_order(order_id: int, session: Session) -> OrderOut:
    order = await session.get(Order, order_id)
    if order is None:
        raise HTTPException(404, "There is no such order.")
    return OrderOut.model_validate(order)


@app.get("/orders")
async def list_orders(
    session: Session,
    start: Annotated[datetime, Query(alias="from")],
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> OrderList:
    query = select(Order).where(Order.datetime >= start).order_by(Order.datetime, Order.id).limit(limit)
    orders = (await session.scalars(query)).all()
    return OrderList(items=[OrderOut.model_validate(order) for order in orders])
