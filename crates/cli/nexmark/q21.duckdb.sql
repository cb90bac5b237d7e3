CREATE TABLE result ("auction" BIGINT, "bidder" BIGINT, "price" BIGINT, "channel" VARCHAR, "channel_id" VARCHAR);

CREATE VIEW answer AS
SELECT auction, bidder, price, channel,
  coalesce(
    map {'Apple': '0', 'Google': '1', 'Facebook': '2', 'Baidu': '3'}[channel],
    nullif(split_part(split_part(url, '&channel_id=', 2), '&', 1), '')
  ) AS channel_id
FROM bid WHERE channel_id IS NOT NULL;
