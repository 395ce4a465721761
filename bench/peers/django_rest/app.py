"""The same API with Django REST Framework, in one file.

gunicorn --workers 2 --threads 8 app:application
"""

import os
from urllib.parse import parse_qs, urlsplit

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application

url = urlsplit(os.environ["DATABASE_URL"])

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": url.path[1:],
            "USER": url.username,
            "HOST": parse_qs(url.query)["host"][0],
            "CONN_MAX_AGE": None,  # a connection for each thread, kept open
        }
    },
    INSTALLED_APPS=["rest_framework"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",
    USE_TZ=True,
)
django.setup()

# Only now: models and views read the settings while they are imported.
from django.db import IntegrityError, models, transaction  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import generics, serializers, status  # noqa: E402
from rest_framework.exceptions import APIException  # noqa: E402


class Service(models.Model):
    id = models.BigIntegerField(primary_key=True)
    name = models.TextField()

    class Meta:
        app_label = "orders"
        db_table = "service"
        managed = False


class Order(models.Model):
    id = models.BigAutoField(primary_key=True)
    datetime = models.DateTimeField()
    totalfee = models.DecimalField(max_digits=12, decimal_places=2)
    services = models.JSONField()
    calendar = models.TextField(default="default")
    version = models.IntegerField(default=1)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        app_label = "orders"
        db_table = "orders"
        managed = False


class OrderChange(models.Model):
    id = models.BigAutoField(primary_key=True)
    type = models.TextField()
    order_id = models.BigIntegerField()
    order_state = models.JSONField()
    recorded_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        app_label = "orders"
        db_table = "order_change"
        managed = False


class TooClose(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_detail = "Another order is less than three hours away."


class ServiceSerializer(serializers.Serializer):
    id = serializers.CharField()
    name = serializers.CharField(read_only=True)


class OrderSerializer(serializers.ModelSerializer):
    id = serializers.CharField(read_only=True)
    services = ServiceSerializer(many=True)
    totalfee = serializers.DecimalField(max_digits=12, decimal_places=2, min_value=0, coerce_to_string=False)

    class Meta:
        model = Order
        fields = ["id", "datetime", "totalfee", "services", "calendar", "version", "created_at", "updated_at"]
        read_only_fields = ["version"]

    def validate_services(self, value):
        ids = [int(service["id"]) for service in value]
        services = list(Service.objects.filter(id__in=ids).order_by("id"))
        if len(services) != len(ids):
            raise serializers.ValidationError("A service is unknown.")
        return [{"id": str(service.id), "name": service.name} for service in services]

    def create(self, validated_data):
        try:
            with transaction.atomic():
                order = super().create(validated_data)
                state = {**OrderSerializer(order).data, "totalfee": str(order.totalfee)}
                OrderChange.objects.create(type="order.created", order_id=order.id, order_state=state)
        except IntegrityError:
            raise TooClose from None
        return order


# ModelSerializer refuses nested lists, since they are usually other rows; here they are a JSON column.
serializers.raise_errors_on_nested_writes = lambda *_: None


class Orders(generics.ListCreateAPIView):
    serializer_class = OrderSerializer

    def get_queryset(self):
        return Order.objects.filter(datetime__gte=self.request.query_params["from"]).order_by(
            "datetime", "id"
        )

    def list(self, request, *args, **kwargs):
        limit = min(100, int(request.query_params.get("limit", 50)))
        items = self.get_serializer(self.get_queryset()[:limit], many=True).data
        return generics.mixins.Response({"items": items})


class OneOrder(generics.RetrieveAPIView):
    queryset = Order.objects.all()
    serializer_class = OrderSerializer


urlpatterns = [path("orders", Orders.as_view()), path("orders/<int:pk>", OneOrder.as_view())]
application = get_wsgi_application()
