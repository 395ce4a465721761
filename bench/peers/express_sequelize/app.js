// The same API with Express and Sequelize: a primary process and two workers that share a port.
//
//     PORT=8001 DATABASE_URL=postgresql://… node app.js

const cluster = require("node:cluster");
const express = require("express");
const { DataTypes, Op, Sequelize } = require("sequelize");

const WORKERS = 2;

if (cluster.isPrimary) {
  for (let n = 0; n < WORKERS; n++) cluster.fork();
  process.on("SIGTERM", () => process.exit(0));
} else {
  const url = new URL(process.env.DATABASE_URL.replace("@/", "@localhost/"));
  const sequelize = new Sequelize(url.pathname.slice(1), url.username, "", {
    dialect: "postgres",
    host: url.searchParams.get("host"),
    logging: false,
    pool: { max: 8, min: 8 },
    define: { timestamps: true, createdAt: "created_at", updatedAt: "updated_at", freezeTableName: true },
  });

  const Service = sequelize.define(
    "service",
    { id: { type: DataTypes.BIGINT, primaryKey: true }, name: DataTypes.TEXT },
    { timestamps: false },
  );
  const Order = sequelize.define("orders", {
    id: { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true },
    datetime: { type: DataTypes.DATE, allowNull: false },
    totalfee: {
      type: DataTypes.DECIMAL(12, 2),
      allowNull: false,
      validate: { min: 0 },
      get() { return Number(this.getDataValue("totalfee")); },
    },
    services: { type: DataTypes.JSONB, allowNull: false },
    calendar: { type: DataTypes.TEXT, allowNull: false, defaultValue: "default" },
    version: { type: DataTypes.INTEGER, defaultValue: 1 },
  });
  const OrderChange = sequelize.define(
    "order_change",
    {
      id: { type: DataTypes.BIGINT, primaryKey: true, autoIncrement: true },
      type: DataTypes.TEXT,
      order_id: DataTypes.BIGINT,
      order_state: DataTypes.JSONB,
    },
    { timestamps: false },
  );

  const app = express();
  app.use(express.json());

  app.post("/orders", async (request, response) => {
    const { datetime, totalfee, services = [], calendar } = request.body;
    const ids = services.map((service) => service.id);
    try {
      const order = await sequelize.transaction(async (transaction) => {
        const known = await Service.findAll({ where: { id: ids }, order: ["id"], transaction });
        if (known.length !== ids.length) return null;
        const order = await Order.create(
          { datetime, totalfee, services: known.map(({ id, name }) => ({ id: String(id), name })), calendar },
          { transaction },
        );
        await OrderChange.create(
          { type: "order.created", order_id: order.id, order_state: order.toJSON() },
          { transaction },
        );
        return order;
      });
      if (order) response.status(201).json(order);
      else response.status(422).json({ detail: "A service is unknown." });
    } catch (error) {
      if (!(error instanceof Sequelize.ExclusionConstraintError)) throw error;
      response.status(409).json({ detail: "Another order is less than three hours away." });
    }
  });

  app.get("/orders/:id", async (request, response) => {
    const order = await Order.findByPk(request.params.id);
    if (order) response.json(order);
    else response.status(404).json({ detail: "There is no such order." });
  });

  app.get("/orders", async (request, response) => {
    const items = await Order.findAll({
      where: { datetime: { [Op.gte]: request.query.from } },
      order: ["datetime", "id"],
      limit: Math.min(100, Number(request.query.limit ?? 50)),
    });
    response.json({ items });
  });

  app.listen(Number(process.env.PORT), "127.0.0.1");
}
